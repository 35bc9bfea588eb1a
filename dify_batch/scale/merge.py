"""`dify-batch merge`: the results of all parts of an output as one file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dify_batch.errors import DifyBatchError, StorageError, UsageError
from dify_batch.ids import DONE, IdIndex, Shard
from dify_batch.input.records import Problem
from dify_batch.input.rows import RowSource
from dify_batch.ledger import formats
from dify_batch.ledger.disk import Disk
from dify_batch.ledger.place import Kind, kind_of, require_folder, same_file
from dify_batch.ledger.shards import whole_set
from dify_batch.ledger.state import Phase, State, lines_of, read_state
from dify_batch.reports.failures import input_of, opened_with
from dify_batch.text import count, listed, show

_SHOWN = 5  # faults that a message lists


@dataclass(frozen=True, slots=True)
class MergeReport:
    """What was written. `without`: rows that the parts know and that have no result, so are not in it, by what they
    are; `gone`: results of rows that the input does not have any more, which come last (in the order of the input)."""

    target: str
    parts: int
    results: int
    without: dict[str, int]
    gone: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    def text(self) -> str:
        lines = [f"{self.target}: {count(self.results, 'result')} of {count(self.parts, 'part')}"]
        if self.gone:
            lines.append(f"{count(self.gone, 'result is', 'results are')} of rows that are not in the input, and last")
        if self.without:
            states = ", ".join(f"{number:,} {name}" for name, number in self.without.items())
            have = count(sum(self.without.values()), "row has", "rows have")
            lines.append(f"{have} no result and {'is' if have.startswith('1 ') else 'are'} not in it: {states}")
        return "\n".join(lines)


@dataclass(slots=True)
class _Part:
    shard: Shard
    paths: formats.Paths
    state: State


def merge(
    output: Path,
    target: Path,
    *,
    keep_order: bool = False,
    source: str | None = None,
    allow_other_app: bool = False,
    force: bool = False,
    bom: bool = True,
    disk: Disk | None = None,
) -> MergeReport:
    """Writes the results of all parts of `output` to `target`, in one step. The parts stay as they are.

    Args:
        keep_order: in the order of the input, in place of part after part.
        source: with `keep_order`, the input, where it is not the one that the journals name.
        allow_other_app: also where the parts hold results of several apps.
        force: replace what stands at `target`.

    Raises:
        UsageError: parts are missing; an id stands twice, or in a part that is not its own; several apps; the target
            is a file of a batch, or is there already.
        StorageError: a file cannot be read or written.
    """
    index = IdIndex()
    found = [(shard, formats.Paths.of(path)) for shard, path in whole_set(output)]
    parts = [_Part(shard, paths, read_state(paths, index)) for shard, paths in found]
    states = [part.state for part in parts]
    _require_target(target, output, parts, force=force)
    _require_whole(output, parts)
    if not allow_other_app:
        _require_one_app(output, parts)
    order = _Order(source or input_of(states), opened_with(states)) if keep_order else None
    try:
        with (disk or Disk()).replacing(target) as file:
            if bom:
                file.write(formats.BOM)
            lines = _lines(parts) if order is None else order.lines(parts, index)
            written = 0
            for line in lines:
                file.write(line)
                written += 1
    except OSError as error:
        raise StorageError(
            f"{target} cannot be written: {error.strerror or error}",
            hint="the parts are as they were; give a place with room that you may write to: -o all.jsonl",
        ) from error
    return MergeReport(str(target), len(parts), written, _without(parts), None if order is None else order.gone)


def _require_target(target: Path, output: Path, parts: Sequence[_Part], *, force: bool) -> None:
    require_folder(target, "the target")
    taken = [path for part in parts for path in part.paths.all] + list(formats.Paths.of(output).all)
    if any(same_file(path, target) for path in taken):
        raise UsageError(
            f"{target} is a file of the batch itself; a file of all parts needs a name of its own",
            hint="give another, such as -o all.jsonl",
            code="usage_invalid_flag",
        )
    if kind_of(formats.Paths.of(target).journal) is not Kind.NOTHING:
        raise UsageError(
            f"{target} is the output of a batch of its own and would be lost",
            hint="give another name, such as -o all.jsonl",
            code="usage_invalid_flag",
        )
    kind = kind_of(target)
    if kind not in (Kind.NOTHING, Kind.FILE):
        raise UsageError(f"{target} is {kind.value}", hint="give a file, such as -o all.jsonl")
    if kind is Kind.FILE and not force:
        raise UsageError(
            f"{target} is there already",
            hint="give another name, or add --force to replace it",
            code="usage_invalid_flag",
        )


def _require_whole(output: Path, parts: Sequence[_Part]) -> None:
    """Raises UsageError for ids that stand twice, lines that are no results, rows in a part that is not theirs."""
    bad = [text for part in parts for text in part.state.bad_lines]
    if not bad:
        for part in parts:
            for number, line in enumerate(_results(part), 1):
                row_id = formats.result_id(line)
                if row_id is not None and row_id not in part.shard:
                    where = f"{part.paths.results}, line {number}"
                    bad.append(f"{where}: the row {show(row_id)} belongs to another part than {part.shard}")
                    break
    if bad:
        more = f"\n  and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise UsageError(
            f"{output}: the parts do not make one file:\n  " + "\n  ".join(bad[:_SHOWN]) + more,
            hint="have files of another batch come among these? Take out what does not belong here",
            code="usage_invalid_flag",
        )


def _require_one_app(output: Path, parts: Sequence[_Part]) -> None:
    """Of the keys each part has a fingerprint with a salt of its own, so that only servers and names can be
    compared."""
    seen: dict[str, Shard] = {}
    for part in parts:
        for one in part.state.before:
            where = "the demo" if one.demo else f"the app {show(one.app or '?')} at {one.server or '?'}"
            seen.setdefault(where, part.shard)
    if len(seen) > 1:
        which = listed([f"{where} (part {shard.number})" for where, shard in seen.items()])
        raise UsageError(
            f"{output}: the parts hold results of several apps: {which}",
            hint="bring the parts of one app together; or add --allow-other-app to have all in one file",
            code="other_app",
        )


def _without(parts: Sequence[_Part]) -> dict[str, int]:
    words = {Phase.FAILED: "failed", Phase.PAUSED: "paused", Phase.FREE: "not sent"}
    found: dict[str, int] = {}
    for part in parts:
        for row in part.state.rows.values():
            name = "unknown" if row.kind == "unknown" and row.phase is Phase.FAILED else words.get(row.phase, "running")
            found[name] = found.get(name, 0) + 1
    return found


def _results(part: _Part) -> Iterator[bytes]:
    """The lines that were there when the part was read: a batch may be appending meanwhile."""
    for line, end in lines_of(part.paths.results):
        if end > part.state.results_size:
            return
        if line.strip():
            yield line


def _lines(parts: Sequence[_Part]) -> Iterator[bytes]:
    for part in parts:
        for line in _results(part):
            yield line + b"\n"


class _Order:
    """The results in the order of the input. Of each the place is kept, so memory grows with the rows."""

    def __init__(self, source: str, given: dict[str, Any]) -> None:
        self._source = source
        self._given = given
        self.gone: int = 0

    def lines(self, parts: Sequence[_Part], index: IdIndex) -> Iterator[bytes]:
        places: dict[str, int] = {}
        for number, part in enumerate(parts):
            begin = 0
            for line, end in lines_of(part.paths.results):
                row_id = formats.result_id(line)
                if row_id is not None and end <= part.state.results_size and index.has(row_id, DONE):
                    places[row_id] = begin * len(parts) + number
                begin = end
        files = [part.paths.results.open("rb") for part in parts if part.paths.results.exists()]
        numbers = [number for number, part in enumerate(parts) if part.paths.results.exists()]
        by_number = dict(zip(numbers, files, strict=True))
        try:
            for row_id in self._ids():
                if (place := places.pop(row_id, None)) is not None:
                    yield _read(by_number, place, len(parts))
            self.gone = len(places)
            for place in places.values():
                yield _read(by_number, place, len(parts))
        finally:
            for file in files:
                file.close()

    def _ids(self) -> Iterator[str]:
        try:
            with RowSource.open(self._source, **self._given) as source:
                for item in source:
                    if item.id is not None:
                        yield item.id
                    elif isinstance(item, Problem) and item.fatal:
                        raise UsageError(f"{self._source}: {item}")
        except DifyBatchError as error:
            error.hint = f"give the input of the batch: --input data.csv ({error.hint or 'as it was'})"
            raise


def _read(files: dict[int, Any], place: int, parts: int) -> bytes:
    begin, number = divmod(place, parts)
    files[number].seek(begin)
    line: bytes = files[number].readline().removeprefix(formats.BOM)
    return line if line.endswith(b"\n") else line + b"\n"
