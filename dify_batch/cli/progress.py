"""What a person sees while a batch runs, and when it has ended. Texts are pure functions; rich draws.

Where standard error is a terminal: a bar, live. Else a plain line now and then, which suits cron:

    12:00:05 120/2000 done, 3 failed, 20 in flight, 4.1 rows/s, about 7 min left, 52,310 tokens
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

from dify_batch.seams import REAL, Clock
from dify_batch.text import count, duration, one_line

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from dify_batch.summary import Stats, Summary

FIRST_LINE = 10.0  # seconds: a batch that ends sooner needs no line at all
LINE_EVERY = 30.0  # seconds: two thousand lines for a night's batch are still readable
FRAME_EVERY = 0.25  # seconds: looks live, and drawing takes no noticeable part of a core
RATE_WINDOW = 60.0  # seconds: long enough for slow runs to show a rate, short enough to follow a change
ECHO_WIDTH = 4  # columns left free at the right
TOP_FAILURES = 5


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Figures of one moment.

    `done`: rows that have a result, as in `status`; `finished`: rows with which this batch is through, failed ones
    included. `asked`: the --concurrency, 0 for auto. `state_for`: seconds since `state` has been what it is. `rate` is
    rows per second lately, None while nothing is known of it.
    """

    done: int
    to_run: int
    failed: int
    in_flight: int
    limit: int
    tokens: int
    unknown: int = 0
    paused: int = 0
    state: str = ""
    rate: float | None = None
    last_failure: str = ""
    finished: int = 0
    asked: int = 0
    state_for: float = 0.0

    @property
    def seconds_left(self) -> float | None:
        left = self.to_run - self.finished
        return left / self.rate if self.rate and left > 0 else None


class RecentRate:
    """Rows per second over the last RATE_WINDOW seconds, from samples of the count of finished rows."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def sample(self, now: float, finished: int) -> float | None:
        """Take a sample at `now` (monotonic seconds); the rate, or None where no row has finished lately."""
        samples = self._samples
        if not samples or now - samples[-1][0] >= 1.0:  # one a second keeps the window short
            samples.append((now, finished))
        while len(samples) > 2 and now - samples[1][0] >= RATE_WINDOW:
            samples.popleft()
        since, before = samples[0]
        return (finished - before) / (now - since) if now > since and finished > before else None


class Figures:
    """Makes snapshots, each with what only a look back tells: the rate, and how long a state has lasted."""

    def __init__(self, now: Callable[[], float], asked: int = 0) -> None:
        self._now = now
        self._asked = asked
        self._rate = RecentRate()
        self._state, self._since = "", now()

    def take(self, stats: Stats) -> Snapshot:
        now = self._now()
        rate = self._rate.sample(now, stats.finished)
        state = stats.state.partition(": ")[0]  # the reason after it may change while the outage goes on
        if state != self._state:
            self._state, self._since = state, now
        return replace(snapshot(stats, rate), asked=self._asked, state_for=now - self._since if state else 0.0)


def snapshot(stats: Stats, rate: float | None = None) -> Snapshot:
    last = stats.recent_failures[-1] if stats.recent_failures else None
    return Snapshot(
        done=stats.success + stats.partial_success,
        finished=stats.finished,
        to_run=stats.to_run,
        failed=stats.failed,
        in_flight=stats.in_flight,
        limit=stats.limit,
        tokens=stats.total_tokens,
        unknown=stats.unknown,
        paused=stats.paused,
        state=one_line(stats.state),
        rate=rate,
        last_failure=f"{one_line(last[0])}: {one_line(last[1])}: {one_line(last[2])}" if last else "",
    )


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


def in_flight(snap: Snapshot, *, places: bool) -> str:
    """`9 of 9 in flight (limited by the server)`: with `places` how many could be."""
    less = " (limited by the server)" if 0 < snap.limit < snap.asked else ""
    return f"{snap.in_flight}{f' of {snap.limit}' if places else ''} in flight{less}"


def details(snap: Snapshot, *, places: bool = False) -> list[str]:
    """The parts after the count of done rows; parts that say nothing are left out. While the server is away the rate
    of before says nothing, and nobody knows the end."""
    parts = [f"{snap.failed:,} failed"]
    parts += [f"{snap.unknown:,} unknown"] if snap.unknown else []
    parts += [f"{snap.paused:,} paused"] if snap.paused else []
    parts.append(in_flight(snap, places=places))
    if snap.rate and not snap.state:
        parts.append(rate_text(snap.rate))
    if snap.seconds_left is not None and not snap.state:
        parts.append(f"about {duration(snap.seconds_left)} left")
    if snap.tokens:
        parts.append(f"{snap.tokens:,} tokens")
    return parts


def plain_line(snap: Snapshot, clock: str) -> str:
    """One line of figures; `clock` is the time of day in front."""
    if not snap.to_run:
        return f"{clock} {state_text(snap) or 'starting'}"
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


class Display(Protocol):
    """Shows figures on a timer until it is closed; `write` puts a line where it does not disturb them."""

    def show(self, stats: Stats) -> None: ...
    def write(self, line: str) -> None: ...
    def close(self) -> None: ...

    every: float


class Silent:
    """Shows nothing; lines of the log still go to standard error."""

    every = 3600.0

    def show(self, stats: Stats) -> None:
        pass

    def write(self, line: str) -> None:
        write_line(line)

    def close(self) -> None:
        pass


class Plain(Silent):
    """Plain periodic lines: the first after FIRST_LINE seconds, then one every LINE_EVERY."""

    every = 1.0

    def __init__(
        self,
        write: Callable[[str], None] | None = None,
        clock: Clock = REAL.clock,
        *,
        asked: int = 0,
    ) -> None:
        self._write = write or write_line
        self._clock = clock
        self._figures = Figures(clock.monotonic, asked)
        self._next = clock.monotonic() + FIRST_LINE

    def show(self, stats: Stats) -> None:
        now, snap = self._clock.monotonic(), self._figures.take(stats)
        if now >= self._next:
            self._next = now + LINE_EVERY
            self._write(plain_line(snap, f"{datetime.fromtimestamp(self._clock.wall()).astimezone():%H:%M:%S}"))


class Live:
    """A bar and a few lines under it, drawn by rich; lines of the log appear above."""

    every = FRAME_EVERY

    def __init__(self, console: Console | None = None, clock: Clock = REAL.clock, *, asked: int = 0) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self._console = console or Console(stderr=True, highlight=False, markup=False, emoji=False)
        # Drawn by `show` alone: rich's own thread would read the figures while the engine writes them.
        self._live = RichLive(console=self._console, auto_refresh=False, transient=True)
        self._figures = Figures(clock.monotonic, asked)
        self._live.start()

    def show(self, stats: Stats) -> None:
        snap = self._figures.take(stats)
        with contextlib.suppress(OSError):  # where the terminal has gone the batch goes on
            self._live.update(render(snap, self._console.width), refresh=True)

    def write(self, line: str) -> None:
        from rich.text import Text

        with contextlib.suppress(OSError):
            self._console.print(Text(line), soft_wrap=True)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._live.stop()


def render(snap: Snapshot, width: int) -> RenderableType:
    """The live display: bar, figures, a line for what holds the batch up, a line for the last failure."""
    from rich.console import Group
    from rich.constrain import Constrain
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    free = max(10, width - ECHO_WIDTH)
    rows: list[RenderableType] = []
    if snap.to_run:
        count = Text(f" {snap.done:,}/{snap.to_run:,} done  {100 * snap.done // snap.to_run}%")
        bar = Table.grid(expand=False)
        bar.add_row(ProgressBar(total=snap.to_run, completed=snap.done, width=max(10, min(50, width - 30))), count)
        rows.append(bar)
        parts = details(snap, places=True)
        figures = [Text(line, no_wrap=True, overflow="ellipsis") for line in packed(parts, free)]
        if snap.failed:
            figures[0].stylize("red", 0, len(parts[0]))
        rows += figures
    if snap.state or not snap.to_run:
        rows.append(Text(state_text(snap) or "starting", style="yellow", no_wrap=True, overflow="ellipsis"))
    if snap.last_failure:
        rows.append(Text(f"last failure: {snap.last_failure}", style="red", no_wrap=True, overflow="ellipsis"))
    # A terminal echoes Ctrl-C as ^C; after a full line that would wrap, and leave a torn frame behind.
    return Constrain(Group(*rows), free)


def choose_display(
    *,
    json: bool,
    quiet: bool,
    asked: int = 0,
    stream: TextIO | None = None,
    environ: Mapping[str, str] = os.environ,
    clock: Clock = REAL.clock,
) -> Display:
    """Live on a terminal that can move its cursor, plain lines elsewhere, nothing with --json or -q.

    `asked`: the --concurrency, 0 for auto.
    Live needs UTF-8: elsewhere a character may be shown as its escape, and the frame is torn by its length.
    """
    stream = sys.stderr if stream is None else stream
    if json or quiet or stream is None:
        return Silent()
    able = environ.get("TERM", "") not in ("dumb", "unknown", "")
    if stream.isatty() and able and (stream.encoding or "").lower().replace("-", "") == "utf8":
        return Live(clock=clock, asked=asked)
    return Plain(clock=clock, asked=asked)


def write_line(line: str) -> None:
    """A line to standard error; a closed pipe or terminal is no reason to end a batch."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass


async def keep_showing(display: Display, stats: Stats) -> None:
    """Shows `stats` until cancelled."""
    while True:
        display.show(stats)
        await asyncio.sleep(display.every)


def summary_text(
    summary: Summary, output: Path, failures: Sequence[tuple[str, str, int]], next_steps: Sequence[str]
) -> str:
    """The end of a batch, for people.

    Args:
        failures: (code, message, how many), most frequent first; the first TOP_FAILURES are shown.
        next_steps: sentences that say what to type next.
    """
    counts = {name: getattr(summary, name) for name in summary.STATES}
    states = [f"{number:,} {name.replace('_', ' ')}" for name, number in counts.items() if number]
    lines = [f"{count(summary.rows, 'row')}: {', '.join(states) or 'nothing to do'}"]
    facts = [f"{summary.total_tokens:,} tokens"] if summary.total_tokens else []
    facts.append(count(summary.posts, "request"))
    facts += [f"{summary.recovered:,} recovered"] if summary.recovered else []
    lines.append(", ".join([*facts, duration(summary.elapsed_time)]))
    lines.append(f"Results: {output}")
    if summary.failed or summary.unknown or summary.retry_waiting:
        lines.append(f"To run again: {output}.retry")
    if summary.paused:
        lines.append(f"Paused: {output}.paused")
    if failures:
        lines.append("Failures:")
        lines += [f"  {times:,} x {code}: {one_line(message)}" for code, message, times in failures[:TOP_FAILURES]]
        rest = sum(times for _, _, times in failures[TOP_FAILURES:])
        lines += [f"  {rest:,} more of other kinds"] if rest else []
    if next_steps:
        lines += ["Next:", *(f"  {step}" for step in next_steps)]
    return "\n".join(lines)
