"""Shows the figures of a batch while it runs, and lines of the log where they do not disturb them; rich draws.

Where standard error is a terminal: a bar, live. Else a plain line now and then, which suits cron.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Protocol, TextIO

from dify_batch.cli.progress_text import details, failure_lines, packed, plain_line, state_alone, state_text
from dify_batch.cli.snapshot import Asked, FailureKind, Figures, Snapshot
from dify_batch.seams import REAL, Clock

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from dify_batch.summary import Stats

FIRST_LINE = 10.0  # seconds: a batch that ends sooner needs no line at all
LINE_EVERY = 30.0  # seconds: two thousand lines for a night's batch are still readable
FRAME_EVERY = 0.25  # seconds: looks live, and drawing takes no noticeable part of a core
ECHO_WIDTH = 4  # columns left free at the right


class Display(Protocol):
    """Shows figures on a timer until it is closed; `write` puts a line where it does not disturb them."""

    def show(self, stats: Stats) -> None: ...
    def write(self, line: str) -> None: ...
    def close(self) -> None: ...

    every: float


class Silent:
    """Shows nothing; lines of the log still go to standard error."""

    every: float = 3600.0

    def show(self, stats: Stats) -> None:
        pass

    def write(self, line: str) -> None:
        write_line(line)

    def close(self) -> None:
        pass


class Plain(Silent):
    """Plain periodic lines: the first after FIRST_LINE seconds, then one every LINE_EVERY."""

    every: float = 1.0

    def __init__(
        self,
        write: Callable[[str], None] | None = None,
        clock: Clock = REAL.clock,
        *,
        asked: Asked | None = None,
    ) -> None:
        self._write = write or write_line
        self._clock = clock
        self._figures = Figures(clock.monotonic, asked)
        self._next = clock.monotonic() + FIRST_LINE
        self._told: dict[tuple[str, str], FailureKind] = {}

    def show(self, stats: Stats) -> None:
        now, snap = self._clock.monotonic(), self._figures.take(stats)
        if now >= self._next:
            self._next = now + LINE_EVERY
            self._write(plain_line(snap, f"{datetime.fromtimestamp(self._clock.wall()).astimezone():%H:%M:%S}"))
            grown = [kind for kind in snap.failures if self._told.get((kind.code, kind.message)) != kind]
            self._told = {(kind.code, kind.message): kind for kind in snap.failures}
            for line in failure_lines(grown):
                self._write(f"         {line}")


class Live:
    """A bar and a few lines under it, drawn by rich; lines of the log appear above."""

    every = FRAME_EVERY

    def __init__(
        self, console: Console | None = None, clock: Clock = REAL.clock, *, asked: Asked | None = None
    ) -> None:
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
    """The live display: bar, figures, a line for what holds the batch up, and the last kinds of failure."""
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
        words = state_text(snap) if snap.to_run else state_alone(snap)
        rows.append(Text(words, style="yellow", no_wrap=True, overflow="ellipsis"))
    for line in failure_lines(snap.failures):
        rows.append(Text(line, style="red", no_wrap=True, overflow="ellipsis"))
    # A terminal echoes Ctrl-C as ^C; after a full line that would wrap, and leave a torn frame behind.
    return Constrain(Group(*rows), free)


def choose_display(
    *,
    json: bool,
    quiet: bool,
    asked: Asked | None = None,
    stream: TextIO | None = None,
    environ: Mapping[str, str] = os.environ,
    clock: Clock = REAL.clock,
) -> Display:
    """Live on a terminal that can move its cursor, plain lines elsewhere, nothing with --json or -q.

    `asked`: what the person asked for, as far as it limits the speed.
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
