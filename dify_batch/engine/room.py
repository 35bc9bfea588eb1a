"""Room for others: the connections of the server that runs leave free.

A Dify of default size has 10 connections. Look-ups, details and stops wait behind the runs that hold all of them, and
so do the people who look at Dify's own pages (dify-wire section 8: 2 to 6 s with runs of 3 s). How many it has, nobody
tells; only a question that waits for its answer shows that all are taken, and then they stay so until a run ends.
So beyond what a default Dify leaves one of, `--concurrency auto` takes more only when runs are about to end, and goes
back to what was seen to leave one free as soon as a question has to wait.
"""

from __future__ import annotations

from collections import deque

LEAVES_ONE = 9
"""Of the 10 connections of a default Dify."""

# Nobody is to wait longer than this for an answer, seconds.
_BEARABLE = 5.0
# So much longer than the fastest answer of all, seconds, is waiting for a connection.
_WAITED = 1.0
# Where all connections are taken by runs of no more than so many seconds, nobody waits for longer than one.
_SHORT = 4.0
# Seconds until a question tells that a step up was too far: then an end must still be due.
_TOLD_AFTER = 2.5
# After an answer that waited for a long run, so many runs until the next try for more.
_HOLD = 3.0


class Room:
    """Told of ends and of look-ups; says how far the limit may grow, and where it must go back to.

    Args:
        least: never goes back below this.
    """

    def __init__(self, least: int) -> None:
        self._least = least
        self._ends: deque[float] = deque(maxlen=512)
        self._fastest = float("inf")
        self._left_one = 0  # the most in flight at which an answer did not wait
        self._hold = float("-inf")

    def ended(self, now: float) -> None:
        """A run has ended, and its place has been taken by the next."""
        self._ends.append(now)

    def bounded(self, now: float, current: int, target: int, run: float, *, silent: bool) -> int:
        """How far of the way to `target` the limit may grow now.

        Args:
            run: seconds of a run, 0 before one has ended.
            silent: a run that waits for a connection does not show before its end (blocking).
        """
        if current < LEAVES_ONE < target:
            return LEAVES_ONE
        if target <= LEAVES_ONE:
            return target
        if now < self._hold:
            return current
        if not silent or 0 < run <= _SHORT:
            return target
        due = any(now + _TOLD_AFTER < end + run <= now + _BEARABLE for end in self._ends)
        return target if due else current

    def looked(self, now: float, seconds: float, in_flight: int, run: float) -> int | None:
        """A question has been answered after so many seconds, with so many in flight when it was asked. Gives the
        number to go back to, if it had to wait."""
        self._fastest = min(self._fastest, seconds)
        short = run <= _SHORT
        if seconds - self._fastest <= (max(run, _WAITED) if short else _WAITED):
            self._left_one = max(self._left_one, in_flight)
            return None
        self._left_one = min(self._left_one, in_flight - 1)
        if not short:
            self._hold = now + _HOLD * run
        return max(self._least, self._left_one)
