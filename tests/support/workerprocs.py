"""A command with --workers as real processes, and its workers by their pids (Linux tells them)."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dify_batch.ledger.shards import part_of, parts_of, shard_path
from tests.support.harness import LIMIT, Places, command, environment, places, result_ids, until


class Running:
    """One coordinator under way in `folder`; its results are `results.jsonl`, in parts."""

    def __init__(self, folder: Path, base_url: str, *arguments: str, workers: int = 2) -> None:
        self.folder = folder
        self.log = folder / "stderr.txt"
        call = command("-i", "data.csv", "-o", "results.jsonl", "--workers", str(workers), *arguments)
        with self.log.open("ab") as stderr:
            self.process = subprocess.Popen(
                call, cwd=folder, env=environment(base_url), stderr=stderr, stdout=subprocess.PIPE, text=True
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def workers(self) -> list[int]:
        """The pids of the workers that live now."""
        return [pid for pid in pids() if is_worker(pid) and parent(pid) == self.pid]

    def await_workers(self, number: int) -> list[int]:
        until(lambda: len(self.workers()) == number, f"{number} workers")
        return self.workers()

    def end(self, timeout: float = LIMIT) -> int:
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            open_rows = {path.name: sorted(places(path).running) for path in outputs(self.folder)}
            raise AssertionError(f"it goes on; workers {self.workers()}, open {open_rows}: {self.said()}") from None

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")


def pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None


def is_worker(pid: int) -> bool:
    try:
        return b"dify_batch.scale.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def part_of_worker(pid: int) -> str:
    """The part whose journal a worker has open, such as 3of8; "" where it has none."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            name = Path(os.readlink(link)).name
        except OSError:
            continue
        if name.endswith(".jsonl.journal"):
            return name.split(".")[1]
    return ""


@contextmanager
def coordinator(folder: Path, base_url: str, *arguments: str, workers: int = 2) -> Iterator[Running]:
    """Ends whatever is left of it, by pid."""
    running = Running(folder, base_url, *arguments, workers=workers)
    seen: set[int] = set()
    try:
        yield running
    finally:
        seen |= set(running.workers())
        for pid in [running.pid, *seen]:
            if pid == running.pid or is_worker(pid):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        running.process.wait(LIMIT)
        if running.process.stdout is not None:
            running.process.stdout.close()


def outputs(folder: Path) -> list[Path]:
    output = folder / "results.jsonl"
    return [shard_path(output, shard) for shard in parts_of(output)]


def done_ids(folder: Path) -> list[str]:
    """The ids of all results, as often as they stand there."""
    return [row_id for path in outputs(folder) for row_id in result_ids(path)]


def all_places(folder: Path) -> list[Places]:
    """Each part by itself; checks that its rows are its own."""
    found = []
    for path in outputs(folder):
        here, shard = places(path), part_of(path)[1]
        assert shard is not None
        assert all(row_id in shard for row_id in here.done | here.retry | here.running)
        found.append(here)
    return found
