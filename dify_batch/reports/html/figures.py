"""Charts out of what rows came to: bins over time and distributions. Pure.

A chart is data for the page, which draws it and shows it as a table as well:

    {"title", "unit", "time": bool, "bars": bool, "x": [...], "labels": [...], "series": [{"label", "values"}]}

`x`: seconds since 1970 where `time`, else the lower bounds of the bins. `labels`: each x for people.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dify_batch.ledger.formats import utc
from dify_batch.text import duration

# Widths of bins over time, in seconds: those that a person reads at once.
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
_BINS = 120  # as many points as a chart of a page's width can tell apart
_BARS = 30  # bars of a distribution
_FAR = 4  # a longest value of more than so many times the 95th percentile goes into a last bin of its own


@dataclass(slots=True)
class Points:
    """What each ended row adds: when it ended (seconds since 1970), how long it ran (seconds), its tokens, how long it
    waited to start; nan where that is not known. A million rows take 33 MB."""

    at: array[float] = field(default_factory=lambda: array("d"))
    good: array[int] = field(default_factory=lambda: array("b"))
    seconds: array[float] = field(default_factory=lambda: array("d"))
    tokens: array[float] = field(default_factory=lambda: array("d"))
    waited: array[float] = field(default_factory=lambda: array("d"))

    def add(
        self, at: float | None, good: bool, seconds: float | None, tokens: float | None, waited: float | None = None
    ) -> None:
        self.at.append(math.nan if at is None else at)
        self.good.append(good)
        self.seconds.append(math.nan if seconds is None else seconds)
        self.tokens.append(math.nan if tokens is None else tokens)
        self.waited.append(math.nan if waited is None else waited)


def charts(points: Points) -> list[dict[str, Any]]:
    """The charts that the points are enough for."""
    return [
        *_over_time(points),
        *_distribution("How long runs took", "seconds", points.seconds, whole=False),
        *_distribution("How long runs waited to start", "seconds", points.waited, whole=False),
        *_distribution("Tokens of a run", "tokens", points.tokens, whole=True),
    ]


def percentile(ordered: Sequence[float], part: float) -> float:
    """The value below which `part` (0 to 1) of the ordered values lie: the nearest rank."""
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def step_of(span: float) -> int:
    """The width of a bin, so that `span` seconds need at most _BINS of them."""
    for step in _STEPS:
        if span / step <= _BINS:
            return step
    return math.ceil(span / _BINS / 86400) * 86400


def _over_time(points: Points) -> list[dict[str, Any]]:
    known = [(at, good, s, t) for at, good, s, t in _zip(points) if not math.isnan(at)]
    if len(known) < 2:
        return []
    first, last = min(item[0] for item in known), max(item[0] for item in known)
    step = step_of(last - first)
    start = math.floor(first / step) * step
    size = math.floor((last - start) / step) + 1
    done, failed, tokens = [0] * size, [0] * size, [0.0] * size
    seconds: list[list[float]] = [[] for _ in range(size)]
    for at, good, took, used in known:
        bin_ = math.floor((at - start) / step)
        (done if good else failed)[bin_] += 1
        if not math.isnan(took):
            seconds[bin_].append(took)
        if not math.isnan(used):
            tokens[bin_] += used
    for values in seconds:
        values.sort()
    x = [start + step * number for number in range(size)]
    common = {"time": True, "x": x, "labels": [utc(at).replace("T", " ") for at in x]}
    per = duration(step)
    found: list[dict[str, Any]] = [
        {
            "title": f"Rows ended, per {per}",
            "unit": "rows",
            "bars": True,
            "series": [{"label": "with a result", "values": done}, {"label": "failed", "values": failed}],
            **common,
        }
    ]
    if any(seconds):
        middle = [round(percentile(values, 0.5), 3) if values else None for values in seconds]
        high = [round(percentile(values, 0.95), 3) if values else None for values in seconds]
        found.append(
            {
                "title": f"How long runs took, per {per}",
                "unit": "s",
                "bars": False,
                "series": [{"label": "median", "values": middle}, {"label": "95 of 100 below", "values": high}],
                **common,
            }
        )
    if any(tokens):
        found.append(
            {
                "title": f"Tokens, per {per}",
                "unit": "tokens",
                "bars": True,
                "series": [{"label": "tokens", "values": [round(number) for number in tokens]}],
                **common,
            }
        )
    return found


def _zip(points: Points) -> Iterable[tuple[float, int, float, float]]:
    return zip(points.at, points.good, points.seconds, points.tokens, strict=True)


def _distribution(title: str, unit: str, values: Iterable[float], *, whole: bool) -> list[dict[str, Any]]:
    ordered = sorted(value for value in values if not math.isnan(value))
    if len(ordered) < 2 or ordered[0] == ordered[-1]:
        return []
    low, high = ordered[0], ordered[-1]
    most = percentile(ordered, 0.95)
    cut = high > low + _FAR * (most - low) > low
    top = low + (most - low) * 1.25 if cut else high
    width = nice((top - low) / _BARS)
    if whole:
        width = max(1, math.ceil(width))
    start = math.floor(low / width) * width
    size = math.floor((top - start) / width) + 1
    counts = [0] * (size + cut)
    for value in ordered:
        counts[min(math.floor((value - start) / width + 1e-9), len(counts) - 1)] += 1
    x = [round(start + width * number, 6) for number in range(len(counts))]
    labels = [f"{lower:,g} to {round(lower + width, 6):,g}" for lower in x]
    if cut:
        labels[-1] = f"{x[-1]:,g} and more"
    return [
        {
            "title": title,
            "unit": unit,
            "time": False,
            "bars": True,
            "x": x,
            "labels": labels,
            "series": [{"label": "runs", "values": counts}],
        }
    ]


def nice(width: float) -> float:
    """The next width of 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(width))
    for factor in (1, 2, 2.5, 5, 10):
        if factor * power >= width * (1 - 1e-9):
            return factor * power
    return 10 * power
