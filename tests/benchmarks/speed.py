"""Items 1 and 2: near the ideal, and the ceiling; and the others side by side."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

from tests.benchmarks.lines import Line
from tests.benchmarks.processes import Batch, command, contender, server, write_rows
from tests.benchmarks.server import Config

LATENCY = 0.2


def _middle(measure: Callable[[], Batch], times: int) -> Batch:
    """The batch of the middle rate: one run in three may meet a busy moment of the machine."""
    batches = sorted((measure() for _ in range(times)), key=lambda batch: batch.rate)
    return batches[len(batches) // 2]


def near_ideal(folder: Path, *, quick: bool) -> Iterator[Line]:
    """Runs of 200 ms: rows a second as a part of concurrency ÷ latency."""
    for mode in ("streaming",) if quick else ("blocking", "streaming"):
        with server(Config(latency=LATENCY, chunks=2)) as target:
            for places in (64, 512) if quick else (16, 64, 128, 512):
                rows = places * (15 if quick else 30)
                write_rows(folder / "rows.csv", rows)
                options = ("--mode", mode, "-c", str(places))
                ours = _middle(partial(command, target, folder, rows, *options), 1 if quick else 3)
                # A bare loop in the same run tells how much of what is missing is the machine's.
                bare = contender(target, folder, "aiohttp", mode, places, rows)
                ideal = places / LATENCY
                yield Line(
                    "1 near the ideal",
                    f"{mode}, {places} in flight, runs of 200 ms",
                    100 * ours.rate / ideal,
                    "%",
                    90 if places == 512 else 95,
                    note=f"{ours.rate:,.0f} rows/s; a bare aiohttp loop {100 * bare.rate / ideal:.0f} %",
                )


def ceiling(folder: Path, *, quick: bool) -> Iterator[Line]:
    """A server that answers at once: our whole path against bare loops that keep nothing."""
    rows, times = (2000, 1) if quick else (10_000, 3)
    for mode, chunks in (("blocking", 0), ("streaming", 20)):
        with server(Config(chunks=chunks)) as target:
            write_rows(folder / "rows.csv", rows)
            raw = contender(target, folder, "raw", mode, 64, rows)
            yield Line("2 ceiling", f"the benchmark's own server, {mode}", raw.rate, "rows/s", note="raw sockets")
            bare = _middle(partial(contender, target, folder, "aiohttp", mode, 32, rows), times)
            yield Line("2 ceiling", f"bare aiohttp loop, {mode}, 32 in flight", bare.rate, "rows/s", note="no files")
            if mode == "blocking":
                stock = _middle(lambda: contender(target, folder, "httpx", "blocking", 8, rows), times)
                yield Line("2 ceiling", "bare stock httpx loop, blocking, 8 in flight", stock.rate, "rows/s")
                if importlib.util.find_spec("requests") is not None:
                    few = min(rows, 3000)
                    write_rows(folder / "rows.csv", few)
                    old = contender(target, folder, "requests", "blocking", 1, few)
                    write_rows(folder / "rows.csv", rows)
                    yield Line("2 ceiling", "the replaced tool's way: requests, one at a time", old.rate, "rows/s")
            for places in (32, 256):
                options = ("--mode", mode, "-c", str(places))
                ours = _middle(partial(command, target, folder, rows, *options), times)
                note = f"{ours.rate:,.0f} rows/s, {ours.cost.cpu / rows * 1e6:.0f} µs of CPU a row, {chunks} events"
                yield Line(
                    "2 ceiling",
                    f"{mode}, {places} in flight, against bare stock httpx, blocking",
                    ours.rate / stock.rate,
                    "×",
                    1.8 if mode == "blocking" else 1.0,
                    note=note,
                )
                yield Line(
                    "2 ceiling",
                    f"the same with start and end of both processes, {rows:,} rows",
                    ours.end_to_end / stock.end_to_end,
                    "×",
                )
    # Dify leaves a stream open for a second after its end, so each streaming run needs a connection of its own.
    with server(Config(chunks=20, linger=1.0)) as target:
        ours = _middle(lambda: command(target, folder, rows, "--mode", "streaming", "-c", "32"), times)
        yield Line(
            "2 ceiling",
            "streaming, 32 in flight, streams left open as Dify does, against bare stock httpx, blocking",
            ours.rate / stock.rate,
            "×",
            1.0,
            note=f"{ours.rate:,.0f} rows/s",
        )


def long_tail(folder: Path, *, quick: bool) -> Iterator[Line]:
    """Five in flight, against groups of five with a barrier, on latencies with a long tail."""
    rows = 100 if quick else 600
    write_rows(folder / "rows.csv", rows)
    with server(Config(latency=0.1, tail=1.0)) as target:
        ours = command(target, folder, rows, "--mode", "blocking", "-c", "5")
        target.reset()
    with server(Config(latency=0.1, tail=1.0)) as target:
        theirs = contender(target, folder, "groups", "blocking", 5, rows)
    yield Line(
        "long tail",
        "five in flight, against groups of five with a barrier",
        ours.rate / theirs.rate,
        "×",
        1.0,
        note=f"{ours.rate:.0f} and {theirs.rate:.0f} rows/s; lognormal latencies, sigma 1, mean 100 ms",
    )


def spaced(folder: Path, *, quick: bool) -> Iterator[Line]:
    """Item 7: --rate and --wait, by the server's clock."""
    seconds = 5 if quick else 60
    for option, value, every in (("--rate", "20/s", 0.05), ("--rate", "200/s", 0.005), ("--wait", "0.05", 0.05)):
        rows = int(seconds / every) + 1
        write_rows(folder / "rows.csv", rows)
        with server(Config(latency=0.02, record=True)) as target:
            ours = command(target, folder, rows, option, value, "-c", "16", "--mode", "blocking")
        starts = ours.stats["starts"]
        off = abs((starts[-1] - starts[0]) / (every * (rows - 1)) - 1)
        per_second = int(1 / every)
        # So many starts and one more take a second or longer if the rate is never above what was asked for.
        spans = [late - early for early, late in zip(starts, starts[per_second:], strict=False)]
        gaps = [late - early for early, late in pairwise(starts)]
        name = f"{option} {value} over {seconds} s"
        note = f"median gap {1000 * median(gaps):.1f} ms, least {1000 * min(gaps):.1f}, longest {1000 * max(gaps):.1f}"
        yield Line("7 rate and wait", f"{name}: off by", 100 * off, "%", 1.0, "most", note)
        yield Line(
            "7 rate and wait", f"{name}: most above it in any second", 100 * (1 / min(spans) - 1), "%", 1.0, "most"
        )
