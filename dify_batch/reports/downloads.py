"""`dify-batch export --files DIR`: the files that outputs point to, each in its row's folder in DIR.

Links are signed by Dify, or are public: no key and no cookie goes with a request, to whatever host. What is there
already stays: `files.jsonl` in DIR says which file came from which link. A file stands under its name only when it is
whole; until then it is `.NAME.TAG.part`, which goes on where it broke off if the server can and has the same content.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dify_batch.backoff import Backoff
from dify_batch.errors import StorageError, UsageError
from dify_batch.ledger import formats
from dify_batch.ledger.disk import Disk
from dify_batch.ledger.place import Kind, kind_of, require_folder
from dify_batch.ledger.shards import outputs_of
from dify_batch.ledger.state import lines_of, read_state
from dify_batch.reports.attached import LIST, Attached, attached, folder_of, safe_name
from dify_batch.reports.fetching import Fetcher, NotFetched
from dify_batch.reports.status import require_batch, require_results
from dify_batch.seams import REAL, Seams
from dify_batch.text import count, one_line

SIDE_BY_SIDE = 4
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that could not be had. `output`: where in the outputs it stands. `file`: below the folder."""

    row: str
    output: str
    file: str
    reason: str


@dataclass(slots=True)
class FilesReport:
    """What came of it: `files` = `downloaded` + `present` + the failures. `size`: bytes that came now."""

    folder: str
    files: int = 0
    downloaded: int = 0
    present: int = 0
    size: int = 0
    failed: list[Failure] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        failed = [{"id": one.row, "output": one.output, "file": one.file, "reason": one.reason} for one in self.failed]
        counts = {"files": self.files, "downloaded": self.downloaded, "present": self.present, "bytes": self.size}
        return {"folder": self.folder, **counts, "failed": failed}

    def text(self) -> str:
        """For people."""
        there = f", {self.present:,} there already" if self.present else ""
        lost = f", {len(self.failed):,} not to be had" if self.failed else ""
        lines = [f"{self.folder}: {count(self.files, 'file')}: {self.downloaded:,} downloaded{there}{lost}"]
        lines += [
            f"row {one_line(one.row, 60)}, {one_line(one.output, 60)}: {one.file}: {one.reason}"
            for one in self.failed[:_SHOWN]
        ]
        if len(self.failed) > _SHOWN:
            lines.append(f"and {len(self.failed) - _SHOWN:,} more")
        return "\n".join(lines)


async def download(
    results: Path, folder: Path, *, force: bool = False, backoff: Backoff | None = None, seams: Seams = REAL
) -> FilesReport:
    """Fetches what is missing in `folder`. What cannot be had is in the report, and stops nothing.

    Args:
        force: take a folder that holds other things as well.
        backoff: the waits between the tries of one file.

    Raises:
        UsageError: no such batch; a folder that is none, or that holds other things.
        StorageError: the results cannot be read, or the folder cannot be written.
    """
    try:
        return await _download(results, folder, force, backoff or Backoff(chance=seams.chance), seams)
    except OSError as error:
        raise StorageError(
            f"{error.filename or folder} cannot be written: {error.strerror or error}",
            hint="what has come is whole; make room, or give another folder, and run the same command again",
        ) from error


async def _download(results: Path, folder: Path, force: bool, backoff: Backoff, seams: Seams) -> FilesReport:
    outputs = [formats.Paths.of(path) for path in outputs_of(results)]
    server = ""
    for paths in outputs:
        require_batch(paths)
        state = read_state(paths)
        require_results(paths, state)
        server = next((one.server for one in reversed(state.before) if one.server), server)
    batch = _Folder(folder, force=force)
    fetcher = Fetcher(server, backoff, seams.clock)
    report = FilesReport(str(folder))
    wanted = _wanted([paths.results for paths in outputs])

    async def work() -> None:
        for file, name in wanted:
            report.files += 1
            if batch.has(file, name):
                report.present += 1
                continue
            try:
                size = await fetcher.fetch(file, batch.place(name))
            except NotFetched as error:
                report.failed.append(Failure(file.row, file.output, name, error.reason))
                continue
            report.downloaded += 1
            report.size += size
            batch.add(file, name, size)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(SIDE_BY_SIDE):
                group.create_task(work())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        batch.close()
        await fetcher.aclose()
    return report


def _wanted(results: Sequence[Path]) -> Iterator[tuple[Attached, str]]:
    """Each file, and its path below the folder. Two passes, so that two rows that differ by capitals alone have
    folders that differ on every system, whichever comes first."""
    alike = Counter(safe_name(row, "row").casefold() for row, _ in _rows(results))
    for row, outputs in _rows(results):
        files = attached(row, outputs)
        if files:
            own = folder_of(row, alike[safe_name(row, "row").casefold()] > 1)
            for file in files:
                yield file, f"{own}/{file.name}"


def _rows(results: Sequence[Path]) -> Iterator[tuple[str, Any]]:
    for path in results:
        for line, _ in lines_of(path):
            record = formats.line_object(line)
            row = None if record is None else formats.id_of_result(record)
            if record is not None and row is not None:
                yield row, record.get("outputs")


class _Folder:
    """The folder and its list."""

    def __init__(self, folder: Path, *, force: bool) -> None:
        require_folder(folder, "--files")
        kind = kind_of(folder)
        if kind not in (Kind.NOTHING, Kind.FOLDER):
            raise UsageError(f"--files: {folder} is {kind.value}", hint="give a folder, such as --files files")
        list_ = folder / LIST
        if kind_of(list_, follow=False) not in (Kind.NOTHING, Kind.FILE):
            raise UsageError(f"{list_} is no regular file", hint="give another folder, such as --files files")
        if kind is Kind.FOLDER and not force and not list_.exists() and any(folder.iterdir()):
            raise UsageError(
                f"--files: {folder} holds other things, and no export made it",
                hint="give a folder of its own, or add --force to write into this one",
            )
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._disk = Disk()
        self._known: dict[str, tuple[str, int]] = {}  # path below the folder: where it came from, bytes
        self._read(list_)
        self._fd = self._disk.open_append(list_)
        if self._torn(list_):
            self._disk.write(self._fd, b"\n")

    def _read(self, list_: Path) -> None:
        for line, _ in lines_of(list_):
            record = formats.line_object(line)
            if record is None:
                continue
            name, source, size = (record.get(key) for key in ("file", "source", "size"))
            if isinstance(name, str) and isinstance(source, str) and isinstance(size, int):
                self._known[name] = source, size

    def _torn(self, list_: Path) -> bool:
        with list_.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - 1))
            return file.read() not in (b"", b"\n")

    def has(self, file: Attached, name: str) -> bool:
        """Whether that very file is there, and whole."""
        source, size = self._known.get(name, ("", -1))
        path = self._folder / name
        if source != file.source or (file.size is not None and size != file.size):
            return False
        return kind_of(path, follow=False) is Kind.FILE and path.stat().st_size == size

    def place(self, name: str) -> Path:
        """Where a file belongs; its folder is made. Raises NotFetched where a link would lead elsewhere."""
        path = self._folder / name
        if kind_of(path.parent, follow=False) not in (Kind.NOTHING, Kind.FOLDER):
            raise NotFetched(f"{path.parent} is no folder")
        if kind_of(path, follow=False) not in (Kind.NOTHING, Kind.FILE):
            raise NotFetched(f"{path} is no regular file")
        path.parent.mkdir(exist_ok=True)
        return path

    def add(self, file: Attached, name: str, size: int) -> None:
        """Notes a file that is whole."""
        record = {"id": file.row, "output": file.output, "file": name, "size": size, "source": file.source}
        self._disk.write(self._fd, formats.json_line(record))
        self._known[name] = file.source, size

    def close(self) -> None:
        self._disk.close(self._fd)
