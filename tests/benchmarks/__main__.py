"""Runs the benchmarks and prints a table with a verdict for each line.

    uv run python -m tests.benchmarks [--quick] [--only NAME] [--markdown] [--plot]

`uv run --group bench ...` adds the contender `requests` and, for --plot, matplotlib.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

from tests.benchmarks import growth, hidden, pages, shape, size, speed, workers
from tests.benchmarks.lines import Line, machine, markdown, table

Benchmark: TypeAlias = Callable[..., Iterator[Line]]

BENCHMARKS: dict[str, Benchmark] = {
    "near-ideal": speed.near_ideal,
    "ceiling": speed.ceiling,
    "long-tail": speed.long_tail,
    "streams": size.many_streams,
    "memory": size.memory,
    "million": size.million,
    "auto-model": hidden.modelled,
    "auto": hidden.real,
    "shape": shape.shape,
    "rate": speed.spaced,
    "workers": workers.workers,
    "permits": workers.permits,
    "shared-rate": workers.shared_rate,
    "after-death": workers.after_death,
    "growth": growth.growth,
    "pages": pages.pages,
    "live": pages.live,
    "start": size.start,  # last: it runs the simulator in this process, which grows by that
}
# Not in --quick, which is to end within two minutes.
LONG = ("growth",)


def main() -> int:
    """Exit status 1 if a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer and smaller, in under two minutes; rougher figures")
    parser.add_argument("--only", action="append", choices=sorted(BENCHMARKS), help="only this one; may be repeated")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown, with date and machine")
    parser.add_argument("--plot", action="store_true", help="draw how cost grows to docs/manual/growth.png")
    given = parser.parse_args()
    if given.plot:
        BENCHMARKS["growth"] = growth.plot
    names = given.only or [name for name in BENCHMARKS if not (given.quick and name in LONG and not given.plot)]
    lines: list[Line] = []
    for name in BENCHMARKS:
        if name not in names:
            continue
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="dify-batch-benchmark-") as folder:
            for line in BENCHMARKS[name](Path(folder), quick=given.quick):
                lines.append(line)
                print(" · ".join(cell for cell in line.cells() if cell), file=sys.stderr, flush=True)
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    print(markdown(lines) if given.markdown else f"{machine()}\n\n{table(lines)}")
    missed = sum(line.met is False for line in lines)
    judged = sum(line.met is not None for line in lines)
    print(f"\n{judged - missed} of {judged} targets met")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
