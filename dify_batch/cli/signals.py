"""SIGINT, SIGTERM, and SIGHUP of a terminal that closes: the first finishes what runs, the second stops it on the
server, the third leaves at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from dify_batch.text import count

if TYPE_CHECKING:
    import signal

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
    """SIGINT, SIGTERM and SIGHUP (on Windows SIGBREAK) drive `control` as long as the context lasts; `say` tells the
    person."""
    import asyncio

    loop = asyncio.get_running_loop()
    escalation = Escalation()

    def received(number: signal.Signals) -> None:
        level = escalation.received(loop.time())
        if level is None:
            return
        if level == 1:
            in_flight = stats.in_flight
            control.drain(number.name)
            tell(f"{number.name}: finishing {count(in_flight, 'run')}; press Ctrl-C again to stop them on the server.")
        elif level == 2:
            control.stop()
            tell("Stopping the runs on the server; press Ctrl-C again to leave at once.")
        else:
            tell("Leaving at once. The next invocation looks up what became of the runs.")
            control.abandon()

    def tell(text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # the terminal has gone
            say(text)

    with handled(("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"), received):
        yield


@contextlib.contextmanager
def handled(names: Iterable[str], received: Callable[[signal.Signals], None]) -> Iterator[None]:
    """As long as the context lasts, the event loop calls `received` for each of these signals, if the system has it.

    A SIGHUP that is ignored already (nohup) stays so. Windows has no signals in its event loop: there Python's own
    handlers do it.
    """
    import asyncio
    import signal

    loop = asyncio.get_running_loop()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    numbers = [n for n in numbers if n.name != "SIGHUP" or signal.getsignal(n) is not signal.SIG_IGN]
    before: dict[signal.Signals, Any] = {}
    for number in numbers:
        try:
            loop.add_signal_handler(number, received, number)
        except (NotImplementedError, RuntimeError, ValueError):  # Windows
            with contextlib.suppress(ValueError):  # not on the main thread: then nobody presses Ctrl-C here
                before[number] = signal.signal(
                    number, lambda got, _: loop.call_soon_threadsafe(received, signal.Signals(got))
                )
    try:
        yield
    finally:
        for number in numbers:
            if number in before:
                signal.signal(number, before[number])
            else:
                with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                    loop.remove_signal_handler(number)
