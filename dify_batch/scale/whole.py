"""The summary of a batch in parts, out of those of its parts. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from dify_batch.scale.survey import Standing
from dify_batch.summary import PAUSED_SHOWN, PausedRun, Summary
from dify_batch.usage import exact_prices

# What the life of a part that was cut off has done is known by its last figures; what counts up is added.
_ADDED = ("recovered", "posts", "total_tokens")
# And of these the row waits in `.retry`.
_WAIT = ("failed", "unknown", "invalid")


@dataclass(slots=True)
class PartRun:
    """One part: where it stood before, and what came of it.

    `summary`: of its last run, None where that has not come to an end; then `after` says where it stands by its files,
    if it was begun. `lost`: the figures of runs of it that were cut off, added up; `prices`: theirs.
    """

    before: Standing
    summary: Mapping[str, Any] | None = None
    after: Standing | None = None
    lost: dict[str, int] = field(default_factory=dict)
    prices: dict[str, Decimal] = field(default_factory=dict)

    def cut_off(self, figures: Mapping[str, Any]) -> None:
        """A worker died with it; `figures`: the last ones."""
        for name in (*_ADDED, "partial_success", *_WAIT):
            self.lost[name] = self.lost.get(name, 0) + int(figures.get(name, 0))
        _add_prices(self.prices, figures.get("total_price") or {})

    def counts(self) -> dict[str, int]:
        """Its rows, by the states of a summary."""
        before, summary = self.before, self.summary
        if summary is None:
            now = self.after or before
            failed = max(0, now.retry_waiting - before.retry_waiting)
            known = {
                "success": max(0, now.done - before.done),
                "done_before": min(now.done, before.done),
                "failed": failed,
                "retry_waiting": now.retry_waiting - failed,
                "paused": now.paused,
                "running": now.open - now.paused,
            }
            lost = {name: self.lost.get(name, 0) for name in _ADDED}
            return known | lost | {"rows": now.rows, "untouched": max(0, now.rows - sum(known.values()))}
        found = {name: int(summary[name]) for name in ("rows", *Summary.STATES, *_ADDED)}
        done = found["done_before"] + found["success"] + found["partial_success"]
        fresh = max(0, done - before.done)
        partial = min(fresh, found["partial_success"] + self.lost.get("partial_success", 0))
        found |= {"done_before": done - fresh, "success": fresh - partial, "partial_success": partial}
        # What failed before the worker died waits in `.retry` for the run that came after.
        earlier = found["retry_waiting"] - before.retry_waiting
        for name in _WAIT:
            moved = max(0, min(self.lost.get(name, 0), earlier))
            found[name] += moved
            found["retry_waiting"] -= moved
            earlier -= moved
        for name in _ADDED:
            found[name] += self.lost.get(name, 0)
        return found


def whole(parts: Sequence[PartRun], live: Summary, *, left_out: int) -> Summary:
    """`live`: of the coordinator's own figures, for what no part knows: how long it took, what it warned of.
    `left_out`: rows that belong to no part."""
    total: dict[str, int] = {}
    prices: dict[str, Decimal] = {}
    paused: list[PausedRun] = []
    modes: dict[str, str] = {}
    for part in parts:
        for name, number in part.counts().items():
            total[name] = total.get(name, 0) + number
        _add_prices(prices, {name: str(price) for name, price in part.prices.items()})
        if part.summary is not None:
            _add_prices(prices, part.summary.get("total_price") or {})
            paused += [PausedRun(row["id"], row["workflow_run_id"]) for row in part.summary.get("paused_rows", ())]
            if part.summary.get("mode"):
                modes[part.summary["mode"]] = part.summary.get("mode_why", "")
    total["rows"] = total.get("rows", 0) + left_out
    total["failed"] = total.get("failed", 0) + left_out
    mode = next(iter(modes)) if len(modes) == 1 else ""
    numbers: dict[str, Any] = {name: total.get(name, 0) for name in ("rows", *Summary.STATES, *_ADDED)}
    for name in ("queue_time", "run_time"):
        numbers[name] = _mean([(part.summary, name) for part in parts if part.summary is not None])
    return dataclasses.replace(
        live,
        **numbers,
        total_price=exact_prices(prices),
        paused_rows=tuple(paused[:PAUSED_SHOWN]),
        mode=mode,
        mode_why=modes.get(mode, ""),
    )


def _mean(parts: Sequence[tuple[Mapping[str, Any], str]]) -> float | None:
    """The mean over the rows of all parts, of those that tell."""
    told = [(summary[name], summary["success"]) for summary, name in parts if summary.get(name) is not None]
    rows = sum(number for _, number in told)
    return round(sum(mean * number for mean, number in told) / rows, 3) if rows else None


def _add_prices(prices: dict[str, Decimal], more: Mapping[str, Any]) -> None:
    for currency, price in more.items():
        prices[currency] = prices.get(currency, Decimal(0)) + Decimal(str(price))
