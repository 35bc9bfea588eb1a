"""Server, contenders and command as processes, and what each of them cost."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.server import Config

ROOT = Path(__file__).parents[2]
# A benchmark that hangs is broken; the longest single measurement takes about three minutes.
LIMIT = 900.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process cost: seconds by the clock and of CPU, MiB at its peak, and what it printed."""

    seconds: float
    cpu: float
    peak: float
    out: str
    status: int


def run(command: Sequence[str], *, env: dict[str, str] | None = None, cwd: Path = ROOT) -> Cost:
    """Runs a process to its end.

    The peak is that of the process or of this one when it was started, so this one imports nothing large.
    """
    began = time.monotonic()
    process = subprocess.Popen(
        command, cwd=cwd, env=env, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, start_new_session=True
    )
    assert process.stdout is not None
    with process.stdout:
        out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Cost(
        time.monotonic() - began,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss / 1024,
        out,
        process.returncode,
    )


class Target:
    """A server process."""

    def __init__(self, port: int) -> None:
        self.origin = f"http://127.0.0.1:{port}"

    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(self.origin + "/stats") as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def reset(self) -> None:
        urllib.request.urlopen(self.origin + "/reset", data=b"").close()


@contextlib.contextmanager
def server(config: Config) -> Iterator[Target]:
    """A server of its own process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.server", json.dumps(asdict(config))],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with process.stdout:
            yield Target(int(process.stdout.readline()))
    finally:
        process.stdin.close()
        process.wait(10)


@dataclass(frozen=True, slots=True)
class Batch:
    """What a batch did. rate: rows a second from first POST to last answer; end_to_end: of the whole process."""

    rows: int
    rate: float
    end_to_end: float
    cost: Cost
    stats: dict[str, Any]


def write_rows(path: Path, rows: int, size: int = 40, *, first: int = 1) -> None:
    """A CSV of rows of about `size` bytes."""
    text = "x" * max(1, size - 12)
    with path.open("w", encoding="utf-8") as file:
        file.write("id,query\n")
        for number in range(first, first + rows):
            file.write(f"row-{number},{text}\n")


def environment(origin: str) -> dict[str, str]:
    """This process's, without settings of its own, and the server's address."""
    own = ("DIFY_", "TIMEOUT", "MAX_RETR", "INITIAL_RETRY", "PYTHONDONTWRITE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    return kept | {"DIFY_API_KEY": "app-benchmark", "DIFY_API_BASE_URL": origin + "/v1"}


def command(target: Target, folder: Path, rows: int, *arguments: str, fresh: bool = True) -> Batch:
    """Our command over `rows.csv` in `folder`, as a process. Fails if a row is without a result."""
    if fresh:
        for old in folder.glob("out.jsonl*"):
            old.unlink()
    target.reset()
    call = [sys.executable, "-m", "dify_batch", "-i", str(folder / "rows.csv"), "-o", str(folder / "out.jsonl")]
    cost = run([*call, "--json", *arguments], env=environment(target.origin), cwd=folder)
    stats = target.stats()
    summary = json.loads(cost.out or "{}")
    if cost.status != 0 or summary["success"] + summary["done_before"] != rows:
        raise SystemExit(f"the benchmark's batch failed: exit status {cost.status}, {cost.out}")
    span = stats["last"] - stats["first"]
    return Batch(rows, stats["finished"] / span if span > 0 else 0.0, rows / cost.seconds, cost, stats)


def contender(target: Target, folder: Path, name: str, mode: str, concurrency: int, rows: int) -> Batch:
    """One of the others over `rows.csv` in `folder`."""
    target.reset()
    arguments = [name, target.origin, mode, str(concurrency), str(folder / "rows.csv"), str(folder / f"{name}.out")]
    cost = run([sys.executable, "-m", "tests.benchmarks.contenders", *arguments])
    stats = target.stats()
    if cost.status != 0 or stats["finished"] != rows:
        raise SystemExit(f"the contender {name} failed: {stats['finished']} of {rows} rows")
    span = stats["last"] - stats["first"]
    return Batch(rows, stats["finished"] / span if span > 0 else 0.0, rows / cost.seconds, cost, stats)
