"""Item 6: `--concurrency auto` against a capacity that is hidden and changes in mid-run.

In virtual time against the model of `tests/support/limit_model.py`, and with the real command against a real server.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

from dify_batch.engine.auto import AutoLimit
from tests.benchmarks.lines import Line
from tests.benchmarks.processes import environment, run, server, write_rows
from tests.benchmarks.server import Config
from tests.support.limit_model import History, Mode, Server, best_fixed, simulate

CAPACITIES = (8, 40, 3)
LATENCY = 0.3
ITEM = "6 auto"
# "A few seconds" in which more than twice the capacity may be in flight, after which it counts as too many.
FEW = 5.0


def modelled(folder: Path, *, quick: bool) -> Iterator[Line]:
    """Virtual time: long phases cost nothing."""
    length, grace = 120.0, 30.0
    modes: tuple[Mode, ...] = ("streaming", "blocking", "refusing")
    for mode in modes:
        phases = [(length * number, capacity) for number, capacity in enumerate(CAPACITIES)]
        for name, draw in (("runs of 1 s", _one_second), ("long-tailed runs", _long_tail)):
            hidden = Server(mode, phases, draw)
            history = simulate(hidden, lambda clock: AutoLimit(clock=clock), length * len(phases))
            parts = []
            for since, capacity in phases:
                best = best_fixed(hidden, capacity, length - grace)
                parts.append(100 * history.throughput(since + grace, since + length) / best)
            note = "phases of 8, 40, 3: " + ", ".join(f"{part:.0f} %" for part in parts)
            yield Line(
                ITEM, f"model, {mode}, {name}: worst phase, of the best fixed setting", min(parts), "%", 85, note=note
            )


def _one_second(rng: random.Random) -> float:
    return 1.0


def _long_tail(rng: random.Random) -> float:
    return rng.lognormvariate(-0.125, 0.5)


def real(folder: Path, *, quick: bool) -> Iterator[Line]:
    """The whole command. With --quick the phases are so short that the search itself takes a good part of them."""
    length, grace = (10.0, 6.0) if quick else (75.0, 30.0)
    kinds = (("streaming", False), ("blocking", False), ("streaming", True))
    for mode, refuse in kinds[:1] if quick else kinds:
        phases = tuple((length * number, capacity) for number, capacity in enumerate(CAPACITIES))
        total = length * len(phases)
        write_rows(folder / "rows.csv", int(total * max(CAPACITIES) / LATENCY))
        for old in folder.glob("out.jsonl*"):
            old.unlink()
        config = Config(latency=LATENCY, chunks=2, phases=phases, refuse=refuse, record=True)
        with server(config) as target:
            call = [sys.executable, "-m", "dify_batch", "-i", "rows.csv", "-o", "out.jsonl", "--json", "--mode", mode]
            call += ["-c", "auto", "--max-runtime", f"{total:g}"]
            ended = run(call, env=environment(target.origin), cwd=folder)
            stats = target.stats()
        assert ended.status == 75, ended
        began = stats["first"]
        history = History(
            finished=[at - began for at in stats["ends"]],
            in_flight=[(at - began, count) for at, count in stats["flights"]],
        )
        parts, above = [], 0.0
        for since, capacity in phases:
            # Up to the last second: the command's clock began a little before the server's.
            until = since + length - 1.0
            parts.append(100 * history.throughput(since + grace, until) * LATENCY / capacity)
            above = max(above, history.longest_above(2 * capacity, since, until))
        name = f"command, {mode}{', refusing' if refuse else ''}"
        note = f"phases of {length:.0f} s: " + ", ".join(f"{part:.0f} %" for part in parts)
        yield Line(ITEM, f"{name}: worst phase, of capacity ÷ latency", min(parts), "%", 85, note=note)
        note = f"{stats['refused']} refused, at most {stats['peak']} in flight"
        yield Line(ITEM, f"{name}: longest stretch above twice the capacity", above, "s", FEW, "most", note)
