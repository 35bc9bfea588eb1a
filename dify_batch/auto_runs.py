"""What `auto` remembers of runs: how long they take without waiting, and whether more at once brought more."""

from __future__ import annotations

import math
from bisect import bisect_left, insort

# A start and an end belong to one run if they say so of its sending, within this (seconds): what the client does
# between taking the two times and telling them, with a busy event loop.
_SAME = 0.05
# The mean run is over the last 32 at least: with the long tails of language models (a standard deviation of one to two
# means) that is good to a quarter.
_MEAN_OVER = 32
# And the spread of delays over half as many: it is needed before there are many.
_SPREAD_OVER = 16
# Twice the number in flight is the least step of which the effect shows above the scatter of run times.
_STEP = 1.9
# Runs to compare at least. Half of them must be there for the lower level, which was passed quickly.
_COMPARED = 16
# Of a doubling that brings nothing the runs take twice as long; of one that brings all, as long as before. More than
# 70 % of the way to nothing, beyond 1.5 standard errors: nothing. (Doubled with a gain of a fifth is not worth it.)
_NO_GAIN = 0.7
_ERRORS = 1.5


class Runs:
    """Pairs starts and ends by the time they were sent."""

    def __init__(self) -> None:
        self.starts = 0
        self._last_delay: float | None = None
        self.spread = 0.0
        """How far one delay is from the next, in the mean: seconds. A queue that grows does not count as spread."""
        self.mean = 0.0
        """Mean seconds of a run without its delay; 0 before the first has ended."""
        self.blocking = False
        """A start is told only with the end."""
        self._ends = 0
        self._open: list[tuple[float, float]] = []  # sent, delay; sorted
        self._last: tuple[float, float] | None = None  # told at, delay

    @property
    def running(self) -> int:
        """Streaming: how many have started and not ended."""
        return len(self._open)

    def started(self, now: float, delay: float) -> None:
        """A start is told at `now`."""
        if self._last_delay is not None:
            self.starts += 1
            self.spread += (abs(delay - self._last_delay) - self.spread) / min(self.starts, _SPREAD_OVER)
        self._last_delay = delay
        self._last = (now, delay)
        if not self.blocking:
            insort(self._open, (now - delay, delay))

    def finished(self, now: float, seconds: float, in_flight: int) -> float | None:
        """Seconds of the run without its delay; None for an attempt that was no run (a refused input)."""
        delay = self._delay_of(now, seconds)
        # Runs that were lost or left to the server are never told to end: no more are open than are in flight.
        while len(self._open) >= max(1, in_flight):
            self._open.pop(0)
        if delay is None:
            return None
        run = max(0.0, seconds - delay)
        self._ends += 1
        self.mean += (run - self.mean) / min(self._ends, max(_MEAN_OVER, in_flight))
        return run

    def _delay_of(self, now: float, seconds: float) -> float | None:
        sent = now - seconds
        at = bisect_left(self._open, (sent, 0.0))
        near = [i for i in (at - 1, at) if 0 <= i < len(self._open) and abs(self._open[i][0] - sent) <= _SAME]
        if near:
            best = min(near, key=lambda i: abs(self._open[i][0] - sent))
            return self._open.pop(best)[1]
        last, self._last = self._last, None
        if last is not None and now - last[0] <= _SAME and last[1] <= seconds:
            if not self.blocking:
                self.blocking = True
                self._open.clear()
            return last[1]
        return None


class Gain:
    """Compares how long runs take at a level with how long they took at half of it.

    Runs a second are level / seconds: they grow with the level only if the seconds do not. Means of logarithms, so
    that one very long run does not decide.
    """

    def __init__(self) -> None:
        self._level = 1
        self._now = _Sample()
        self._before: tuple[int, _Sample] | None = None

    def seen(self, level: int, run: float) -> int | None:
        """A run sent and ended at this level. Gives the level to go back to if the last step up brought nothing."""
        if level >= _STEP * self._level:
            if self._now.count >= _COMPARED // 2:
                self._before = (self._level, self._now)
            self._level, self._now = level, _Sample()
        elif self._level >= _STEP * level:
            self._level, self._now, self._before = level, _Sample(), None
        self._now.add(math.log(max(run, 1e-3)))
        if self._before is None or self._now.count != max(_COMPARED, self._level):
            return None
        lower, sample = self._before
        slower = self._now.mean - sample.mean
        error = math.sqrt(self._now.variance / self._now.count + sample.variance / sample.count)
        if slower - _ERRORS * error <= _NO_GAIN * math.log(self._level / lower):
            return None
        self._level, self._now, self._before = lower, sample, None
        return lower


class _Sample:
    """Count, mean and variance of numbers as they come."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self._squares = 0.0

    @property
    def variance(self) -> float:
        return self._squares / max(1, self.count - 1)

    def add(self, value: float) -> None:
        self.count += 1
        change = value - self.mean
        self.mean += change / self.count
        self._squares += change * (value - self.mean)
