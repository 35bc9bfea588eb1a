"""The live figures of a batch in parts: what its workers tell, added up. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dify_batch.scale.whole import PartRun
from dify_batch.summary import Stats

NUMBERS = (
    *("rows", "done_before", "success", "partial_success", "failed", "unknown", "invalid", "paused", "running"),
    *("recovered", "posts", "lookups", "total_tokens", "to_run", "finished"),
)
"""The figures of `Stats` that a worker tells."""

_LOST = ("posts", "recovered", "total_tokens", "failed", "unknown", "invalid")


@dataclass(slots=True)
class Held:
    """What the coordinator knows of one part. `deaths`: of workers with it since a row of it came to its end;
    `figures`: the newest; `locked_since`: another process holds its files since then, monotonic."""

    run: PartRun
    deaths: int = 0
    figures: dict[str, Any] = field(default_factory=dict)
    locked_since: float | None = None

    def cut_off(self, figures: Mapping[str, Any]) -> None:
        """A worker has died with it; `figures`: the last that it told."""
        self.run.cut_off(figures)
        self.run.summary = None
        self.deaths = 1 if figures.get("finished") else self.deaths + 1
        if figures:
            done = sum(int(figures.get(name, 0)) for name in ("done_before", "success", "partial_success"))
            self.figures = {"rows": figures.get("rows", 0), "to_run": figures.get("to_run", 0), "done_before": done}


def add_up(stats: Stats, parts: Sequence[Held], *, left_out: int) -> None:
    """Puts the sums into `stats`."""
    totals: Counter[str] = Counter()
    failures: Counter[tuple[str, str]] = Counter()
    for part in parts:
        before, figures = part.run.before, part.figures
        for name in NUMBERS:
            totals[name] += int(figures.get(name, 0))
        if not figures.get("rows"):  # not begun, or not that far yet
            totals["rows"] += before.rows
            totals["done_before"] += before.done
        # What a worker that died has brought to its end the next one finds done.
        fresh = max(0, int(figures.get("done_before", 0)) - before.done)
        totals["done_before"] -= fresh
        totals["success"] += fresh
        totals["finished"] += fresh
        totals["to_run"] += max(before.to_run, int(figures.get("to_run", 0))) - int(figures.get("to_run", 0))
        for name in _LOST:
            totals[name] += part.run.lost.get(name, 0)
        for code, text, number in figures.get("failures", ()):
            failures[code, text] += number
    totals["rows"] += left_out
    stats.left_out = left_out
    for name, number in totals.items():
        setattr(stats, name, number)
    stats.failures = failures
