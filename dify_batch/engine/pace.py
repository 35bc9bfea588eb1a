"""When the next request may start: --wait and --rate, kept exact. How many may be in flight is in `limit.py`."""

from __future__ import annotations

from dify_batch.seams import Clock

# A start may catch up on at most this much lateness of the clock and the event loop (timers come about 1 ms late).
# A start that is later moves the schedule. So in any second at most half a percent more than the rate starts, plus one.
_CATCH_UP = 0.005


class Starts:
    """Spaces the starts of requests.

    Args:
        rate: starts a second at most, evenly spaced; None for no bound.
        wait: seconds between two starts at least (with more than one in flight).
    """

    def __init__(self, clock: Clock, *, rate: float | None = None, wait: float = 0.0) -> None:
        self._interval = 1 / rate if rate else 0.0
        self._wait = wait
        self._clock = clock
        self._due = float("-inf")
        self._last = float("-inf")

    @property
    def spaced(self) -> bool:
        return bool(self._interval or self._wait)

    def claim(self) -> float:
        """Takes the next start; gives the seconds to wait for it (0 or less: at once)."""
        now = self._clock.monotonic()
        start = now
        if self._interval:
            self._due = max(self._due + self._interval, now - _CATCH_UP)
            start = max(now, self._due)
        if self._wait:
            start = max(start, self._last + self._wait)
            self._last = start
        return start - now
