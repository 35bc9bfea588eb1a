"""What a person reads of a batch under way and at its end. Pure.

12:00:05 120/2000 done, 3 failed, 20 in flight, 4.1 rows/s, about 7 min left, 52,310 tokens
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from dify_batch.cli.snapshot import FailureKind, Snapshot
from dify_batch.text import count, duration, one_line
from dify_batch.usage import price_text, times_text

if TYPE_CHECKING:
    from dify_batch.summary import Summary

TOP_FAILURES = 5


def rate_text(rate: float) -> str:
    """Rows per second, or per minute or hour where that is the readable one."""
    for factor, unit in ((1.0, "s"), (60.0, "min")):
        if rate * factor >= 1:
            return f"{rate * factor:.1f} rows/{unit}"
    return f"{rate * 3600:.1f} rows/h"


def state_text(snap: Snapshot) -> str:
    """What holds the batch up, and for how long: `waiting for the server (3 min): refused`."""
    head, colon, reason = snap.state.partition(": ")
    return f"{head} ({duration(snap.state_for)}){colon}{reason}" if snap.state_for >= 1 else snap.state


def state_alone(snap: Snapshot) -> str:
    """What the batch does while no row is to be sent: what it waits for, or which runs of before it collects."""
    if not snap.state and snap.in_flight:
        looking = f", {snap.looking:,} rows being looked up" if snap.looking else ""
        return f"collecting {count(snap.in_flight, 'run', 'runs')} of before{looking}"
    return state_text(snap) or "starting"


def in_flight(snap: Snapshot, *, places: bool) -> str:
    """`9 of 9 in flight (limited by the server)`: with `places` how many could be."""
    less = f" (limited by {snap.limited_by})" if snap.limited_by else ""
    return f"{snap.in_flight}{f' of {snap.limit}' if places else ''} in flight{less}"


def details(snap: Snapshot, *, places: bool = False) -> list[str]:
    """The parts after the count of done rows; parts that say nothing are left out. While the server is away the rate
    of before says nothing, and nobody knows the end."""
    parts = [f"{snap.failed:,} failed"]
    parts += [f"{snap.invalid:,} invalid"] if snap.invalid else []
    parts += [f"{snap.unknown:,} unknown"] if snap.unknown else []
    parts += [f"{snap.paused:,} paused"] if snap.paused else []
    parts += [f"{snap.dead:,} probably dead"] if snap.dead else []
    if snap.in_flight or not snap.looking:
        parts.append(in_flight(snap, places=places))
    parts += [f"{snap.looking:,} being looked up"] if snap.looking else []
    if snap.rate and not snap.state:
        parts.append(rate_text(snap.rate))
    if snap.seconds_left is not None and not snap.state:
        parts.append(f"about {duration(snap.seconds_left)} left")
    if snap.tokens:
        parts.append(f"{snap.tokens:,} tokens")
    parts += [text for text in (snap.price, snap.mode) if text]
    return parts


def failure_lines(kinds: Iterable[FailureKind]) -> list[str]:
    """`40 x run_failed: rate limit of …`, one a kind."""
    return [f"{kind.count:,} x {one_line(kind.code)}: {one_line(kind.message)}" for kind in kinds]


def plain_line(snap: Snapshot, clock: str) -> str:
    """One line of figures; `clock` is the time of day in front."""
    if not snap.to_run:
        return f"{clock} {state_alone(snap)}"
    line = f"{clock} {snap.done}/{snap.to_run} done, {', '.join(details(snap))}"
    return f"{line}; {state_text(snap)}" if snap.state else line


def packed(parts: Sequence[str], width: int) -> list[str]:
    """The parts, with commas between them, in as few lines of `width` as hold them whole."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(part) + 3 <= width:  # ", " before it, "," after it
            lines[-1] += f", {part}"
        else:
            lines.append(part)
    return [*(f"{line}," for line in lines[:-1]), *lines[-1:]]


def summary_text(
    summary: Summary,
    output: Path,
    failures: Sequence[FailureKind],
    next_steps: Sequence[str],
    *,
    page: Path | None = None,
) -> str:
    """The end of a batch, for people.

    Args:
        failures: by kind, the most frequent first; the first TOP_FAILURES are shown.
        next_steps: sentences that say what to type next.
        page: the HTML report that was written.
    """
    counts = {name: getattr(summary, name) for name in summary.STATES}
    states = [f"{number:,} {name.replace('_', ' ')}" for name, number in counts.items() if number]
    lines = [f"{count(summary.rows, 'row')}: {', '.join(states) or 'nothing to do'}"]
    facts = [f"{summary.total_tokens:,} tokens"] if summary.total_tokens else []
    facts += [price_text({currency: Decimal(price) for currency, price in summary.total_price.items()})]
    facts = [fact for fact in facts if fact]
    facts.append(count(summary.posts, "request"))
    facts += [f"{summary.recovered:,} recovered"] if summary.recovered else []
    facts += [f"{summary.copied:,} copied"] if summary.copied else []
    if summary.mode:
        facts.append(f"mode {summary.mode}" + (f" ({summary.mode_why})" if summary.mode_why else ""))
    lines.append(", ".join([*facts, duration(summary.elapsed_time)]))
    lines += [text[0].upper() + text[1:]] if (text := times_text(summary.run_time, summary.queue_time)) else []
    lines += [text] if summary.rest is not None and (text := summary.rest.text()) else []
    lines.append(f"Results: {output}")
    if summary.failed or summary.invalid or summary.unknown or summary.retry_waiting:
        lines.append(f"To run again: {output}.retry")
    if page is not None:
        lines.append(f"Report: {page}")
    if summary.paused:
        lines.append(f"Paused: {output}.paused")
    if failures:
        lines.append("Failures:")
        lines += [f"  {line}" for line in failure_lines(failures[:TOP_FAILURES])]
        rest = sum(kind.count for kind in failures[TOP_FAILURES:])
        lines += [f"  {rest:,} more of other kinds"] if rest else []
    if next_steps:
        lines += ["Next:", *(f"  {step}" for step in next_steps)]
    return "\n".join(lines)
