"""In front of a Dify of default size: rows a second for each mode and number in flight, in virtual time.

The shape is `Config.docker` of the simulator, which tests/simulator/test_simulator_shape.py holds against what was
measured on a real one: 10 connections, which a stream keeps for a second after its end; a listen queue before them, in
which look-ups and stops wait, too; 4 runs executed at once. Time is made up, so a busy machine changes no figure.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from dify_batch.simulator import Config
from tests.benchmarks.lines import Line
from tests.support.shaped import batch, plain

ITEM = "default size"
SINCE = 30.0
"""Seconds from the start of a batch until its rate counts."""
LASTS = {0.0: 60.0, 3.0: 150.0, 20.0: 630.0}
"""Seconds of a run: how long the batch is watched."""
NUMBERS = (4, 5, 8, 9, 10, 16)
WORKERS = 8


def shape(folder: Path, *, quick: bool) -> Iterator[Line]:
    """Rates, and how long others wait."""
    for latency, lasts in LASTS.items():
        name = f"runs of {latency:g} s" if latency else "echo"
        config = Config.docker(latency=latency)
        rows = int(40 * lasts) if not latency else int(10 * lasts / latency) + 100
        curl = plain(config, WORKERS, lasts).rate(SINCE, lasts)
        for mode in ("streaming", "blocking", "auto"):
            play = partial(batch, config, rows, seconds=lasts, mode=mode)
            rates = {n: play(concurrency=n).rate(SINCE, lasts) for n in ((5, 10) if quick else NUMBERS)}
            auto = play(concurrency="auto")
            rate, best = auto.rate(SINCE, lasts), max(rates.values())
            note = ", ".join(f"-c {number}: {found:.2f}" for number, found in rates.items())
            yield Line(
                ITEM,
                f"{name}, {mode}: -c auto, of the best fixed",
                100 * rate / best,
                "%",
                90,
                note=f"rows/s {note}, auto: {rate:.2f}, {WORKERS} plain blocking requests at once: {curl:.2f}",
            )
            what = f"{name}, {mode}: longest that somebody's look-up waits beside -c auto"
            yield Line(ITEM, what, auto.longest_look(), "s", 5.0, "most", note=f"limit {auto.limits[-2][1]} at the end")
    for mode in ("streaming", "blocking", "auto"):
        five, found = (batch(Config.docker(latency=5.0), 20, mode=mode, concurrency=n).seconds for n in (5, "auto"))
        note = f"{found:.1f} s and {five:.1f} s"
        yield Line(ITEM, f"20 runs of 5 s, {mode}: -c auto beside -c 5", 100 * found / five, "%", 110, "most", note)
