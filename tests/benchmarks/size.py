"""Items 3, 4 and 5: many streams, memory, start."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from dify_batch.ids import IN_INPUT, IdIndex
from tests.benchmarks.lines import Line
from tests.benchmarks.processes import command, environment, run, server, write_rows
from tests.benchmarks.server import Config


def many_streams(folder: Path, *, quick: bool) -> Iterator[Line]:
    """1,000 streams at once, 20 events a second each."""
    seconds = 6.0 if quick else 60.0
    write_rows(folder / "rows.csv", 1000)
    with server(Config(latency=seconds, events_per_second=20)) as target:
        ours = command(target, folder, 1000, "--mode", "streaming", "-c", "1000")
    span = ours.stats["last"] - ours.stats["first"]
    events = 1000 * int(seconds * 20)
    note = f"{seconds:.0f} s, {events / span:,.0f} events/s, at most {ours.stats['peak']} in flight"
    yield Line("3 many streams", "1,000 streams, 20 events/s each: peak", ours.cost.peak, "MiB", 300, "most", note)
    cores = ours.cost.cpu / span
    note = f"{ours.cost.cpu / events * 1e6:.0f} µs an event; the server {ours.stats['cpu'] / span:.2f} cores"
    yield Line("3 many streams", "the same: CPU", cores, "cores", 1.0, "most", note)


def _index_size(folder: Path, rows: int) -> float:
    """MiB that the ids alone take in the index, in a process of its own."""
    code = (
        "import tracemalloc; from dify_batch.ids import IdIndex; tracemalloc.start(); index = IdIndex()\n"
        f"for number in range(1, {rows + 1}): index.add(f'row-{{number}}', {IN_INPUT})\n"
        "print(tracemalloc.get_traced_memory()[1] / 2**20)"
    )
    assert IdIndex.__slots__
    return float(run([sys.executable, "-c", code]).out)


def memory(folder: Path, *, quick: bool) -> Iterator[Line]:
    """Peaks of the command, by rows of 500 bytes."""
    many = 10_000 if quick else 100_000
    peaks = []
    with server(Config(answer=500)) as target:
        for rows in (1000, many):
            write_rows(folder / "rows.csv", rows, 500)
            peaks.append(command(target, folder, rows, "--mode", "blocking", "-c", "32").cost.peak)
    ids = _index_size(folder, many)
    note = f"{peaks[0]:.0f} to {peaks[1]:.0f} MiB; the ids alone {ids:.1f}"
    yield Line(
        "4 memory",
        f"growth from 1,000 to {many:,} rows beyond the ids",
        peaks[1] - peaks[0] - ids,
        "MiB",
        15,
        "most",
        note,
    )


def million(folder: Path, *, quick: bool) -> Iterator[Line]:
    """A large CSV is checked and its done rows are skipped; large results are resumed."""
    rows, size = (100_000, 2000) if quick else (1_000_000, 2000)
    out = folder / "out.jsonl"
    for old in folder.glob("out.jsonl*"):
        old.unlink()
    write_rows(folder / "rows.csv", rows, 100)
    with server(Config()) as target:
        env = environment(target.origin)
        call = [sys.executable, "-m", "dify_batch", "-i", str(folder / "rows.csv"), "-o", str(out)]
        checked = run([*call, "--dry-run"], env=env)
        yield Line(
            "4 memory", f"checking {rows:,} rows: peak", checked.peak, "MiB", 200, "most", f"{checked.seconds:.1f} s"
        )
        _write_results(out, rows, size)
        resumed = run([*call, "--json"], env=env)
        assert json.loads(resumed.out)["done_before"] == rows, resumed.out
    megabytes = out.stat().st_size / 1e6
    what = f"resuming {rows:,} results ({megabytes:,.0f} MB), all rows done"
    yield Line("4 memory", f"{what}: time", resumed.seconds, "s", 15, "most")
    yield Line("4 memory", f"{what}: peak", resumed.peak, "MiB", 250, "most")
    out.unlink()


def _write_results(path: Path, rows: int, size: int) -> None:
    """As a batch over `write_rows(rows, 100)` has written them: the inputs are those of the table."""
    query, version = "x" * 88, "f602e65a-3722-49ad-b2dd-02dc75ba73f9"
    text = "x" * (size - 600)
    with path.open("w", encoding="utf-8-sig") as file:
        for number in range(1, rows + 1):
            run_id = f"00000001-0000-4000-8000-{number:012x}"
            file.write(
                f'{{"id": "row-{number}", "status": "success", "inputs": {{"id": "row-{number}", "query": "{query}"}}, '
                f'"outputs": {{"answer": "{text}"}}, '
                f'"workflow_run_id": "{run_id}", "executed_at": "2026-11-22T00:00:00Z", "retry_count": 0, '
                f'"elapsed_time": 0.1, "total_tokens": 20, "total_steps": 2, "task_id": "{run_id}", '
                f'"total_price": null, "currency": null, "workflow_id": "{version}", '
                f'"trace_id": "dify-batch-0123456789abcdef-row-{number}-1"}}\n'
            )


def start(folder: Path, *, quick: bool) -> Iterator[Line]:
    """Seconds until something is there."""
    times = 5 if quick else 15
    env = environment("http://127.0.0.1:9")
    empty = median(run([sys.executable, "-c", "pass"], env=env).seconds for _ in range(times))
    asked = median(run([sys.executable, "-m", "dify_batch", "--help"], env=env).seconds for _ in range(times))
    yield Line("5 start", "--help, above an empty Python", asked - empty, "s", 0.12, "most", f"Python {empty:.3f} s")
    from dify_batch.simulator import Config as Simulated
    from dify_batch.simulator import Simulator

    write_rows(folder / "rows.csv", 1)
    with Simulator(Simulated()) as simulator:
        env = environment(simulator.base_url.removesuffix("/v1")) | {"DIFY_API_KEY": simulator.api_key}
        seconds = []
        for _ in range(times):
            for old in folder.glob("out.jsonl*"):
                old.unlink()
            began = time.monotonic()
            call = [sys.executable, "-m", "dify_batch", "-i", "rows.csv", "-o", "out.jsonl", "--json"]
            ended = run(call, env=env, cwd=folder)
            assert ended.status == 0, ended.out
            seconds.append(time.monotonic() - began)
    yield Line("5 start", "a batch of one row against the simulator", median(seconds), "s", 1.0, "most")
