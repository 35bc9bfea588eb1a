"""How cost grows with rows, concurrency, events and row size; `--plot` draws it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.lines import Line
from tests.benchmarks.processes import command, environment, run, server, write_rows
from tests.benchmarks.server import Config

PICTURE = Path(__file__).parents[2] / "docs" / "manual" / "growth.png"


@dataclass(frozen=True, slots=True)
class Curve:
    """One panel of the picture."""

    title: str
    across: str
    up: str
    points: Sequence[tuple[float, float]]

    def line(self) -> Line:
        """From the smallest to the largest: how the cost of one unit grew."""
        (first, low), (last, high) = self.points[0], self.points[-1]
        note = f"{self.across} from {first:,.0f} to {last:,.0f}; {low:.3g} to {high:.3g}"
        return Line("growth", f"{self.up}, last over first", high / low, "×", note=note)


def curves(folder: Path, *, quick: bool) -> Iterator[Curve]:
    """Measures all curves, smallest first."""
    with server(Config()) as target:
        env = environment(target.origin)
        points = []
        for rows in (1000, 10_000, 100_000) if quick else (1000, 10_000, 100_000, 1_000_000):
            write_rows(folder / "rows.csv", rows, 100)
            call = [sys.executable, "-m", "dify_batch", "-i", "rows.csv", "-o", "none.jsonl", "--dry-run"]
            points.append((float(rows), run(call, env=env, cwd=folder).cpu / rows * 1e6))
        yield Curve("checking", "rows", "µs of CPU a row, checking, with start", points)
        points, peaks = [], []
        for rows in (1000, 10_000) if quick else (1000, 10_000, 100_000, 1_000_000):
            write_rows(folder / "rows.csv", rows, 100)
            done = command(target, folder, rows, "--mode", "blocking", "-c", "128")
            points.append((float(rows), done.cost.cpu / rows * 1e6))
            peaks.append((float(rows), done.cost.peak))
        yield Curve("rows", "rows", "µs of CPU a row, blocking, with start", points)
        yield Curve("memory", "rows", "MiB at the peak, blocking", peaks)
        rows = 2000 if quick else 8000
        write_rows(folder / "rows.csv", rows)
        points = []
        for places in (1, 4, 16, 64, 256, 1024):
            done = command(target, folder, rows, "--mode", "blocking", "-c", str(places))
            points.append((float(places), done.cost.cpu / rows * 1e6))
        yield Curve("concurrency", "in flight", "µs of CPU a row, blocking", points)
        points = []
        for size in (100, 1000, 10_000, 100_000):
            count = 1000 if quick else 3000
            write_rows(folder / "rows.csv", count, size)
            done = command(target, folder, count, "--mode", "blocking", "-c", "32")
            points.append((float(size), done.cost.cpu / count * 1e6))
        yield Curve("row size", "bytes of a row", "µs of CPU a row, blocking", points)
    points = []
    count = 500 if quick else 2000
    write_rows(folder / "rows.csv", count)
    for events in (0, 10, 100, 1000):
        with server(Config(chunks=events)) as target:
            done = command(target, folder, count, "--mode", "streaming", "-c", "32")
        points.append((float(max(1, events)), done.cost.cpu / count * 1e6))
    yield Curve("events", "text_chunk events of a run", "µs of CPU a row, streaming", points)


def growth(folder: Path, *, quick: bool) -> Iterator[Line]:
    """The curves as figures."""
    for curve in curves(folder, quick=quick):
        yield curve.line()


def plot(folder: Path, *, quick: bool) -> Iterator[Line]:
    """The curves as figures and as a picture."""
    found = list(curves(folder, quick=quick))
    yield from (curve.line() for curve in found)
    # Late: it is large, and a child's peak is never below that of its parent.
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 3, figsize=(15, 7))
    for panel, curve in zip(panels.flat, found, strict=True):
        panel.plot(*zip(*curve.points, strict=True), marker="o")
        panel.set(title=curve.title, xlabel=curve.across, ylabel=curve.up, xscale="log")
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=110)
    pyplot.close(figure)
