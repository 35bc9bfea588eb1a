"""SIGINT and SIGTERM: the first finishes what runs, the second stops it on the server, the third leaves at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dify_batch.text import count

if TYPE_CHECKING:
    from dify_batch.summary import Stats


class Escalation:
    """Counts signals: 1 finish what runs, 2 stop it on the server, 3 and on leave at once.

    `uv run` forwards what its process group gets too, so that one Ctrl-C can arrive twice: signals within
    half a second of each other are one.
    """

    ONE_MOMENT = 0.5  # seconds

    def __init__(self) -> None:
        self._count = 0
        self._last = float("-inf")

    def received(self, now: float) -> int | None:
        """How many signals there have been; None for one of the same moment as that before."""
        if now - self._last < self.ONE_MOMENT:
            return None
        self._last = now
        self._count += 1
        return self._count


@contextlib.contextmanager
def signals(control: Any, stats: Stats, say: Any) -> Iterator[None]:
    """SIGINT and SIGTERM drive `control` as long as the context lasts; `say` tells the person."""
    import asyncio
    import signal

    loop = asyncio.get_running_loop()
    escalation = Escalation()

    def received(number: signal.Signals) -> None:
        level = escalation.received(loop.time())
        if level is None:
            return
        if level == 1:
            say(
                f"{number.name}: finishing {count(stats.in_flight, 'run')}; "
                "press Ctrl-C again to stop them on the server."
            )
            control.drain(number.name)
        elif level == 2:
            say("Stopping the runs on the server; press Ctrl-C again to leave at once.")
            control.stop()
        else:
            say("Leaving at once. The next invocation looks up what became of the runs.")
            control.abandon()

    handled = (signal.SIGINT, signal.SIGTERM)
    for number in handled:
        loop.add_signal_handler(number, received, number)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
