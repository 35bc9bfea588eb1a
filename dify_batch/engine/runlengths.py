"""How long runs take, as `--concurrency auto` sees it: without their delays, and at a level beside a lower one."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from statistics import fmean, variance

# A start and an end are one run's if the times they were sent agree within this, seconds: a busy event loop.
_SAME = 0.05
# The mean run is over 32 at least: with a language model's long tails (a deviation of one to two means) good to a
# quarter. The spread of delays over half as many, because it is needed before there are many.
_MEAN_OVER = 32
_SPREAD_OVER = 16
# Below twice the number in flight an effect does not show above the scatter of run times, nor with fewer runs than
# 16 (half of them for the lower level, which was passed quickly).
_STEP = 1.9
_COMPARED = 16
# After a doubling that brings nothing the runs take twice as long. 70 % of the way there, beyond 1.5 standard errors,
# is nothing: doubled for a gain of a fifth.
_NO_GAIN = 0.7
_ERRORS = 1.5


class Runs:
    """Pairs starts and ends by the time they were sent; knows how long runs take without waiting."""

    def __init__(self) -> None:
        self.mean: float = 0.0  # seconds of a run without its delay; 0 before the first has ended
        self.spread: float = 0.0  # mean seconds from one delay to the next: a queue that grows does not count as spread
        self.blocking: bool = False  # starts are told only with the end
        self._starts = self._ends = 0
        self._before = 0.0  # the latest delay
        self._open: list[tuple[float, float]] = []  # sent, delay; sorted
        self._last: tuple[float, float] | None = None  # told at, delay

    @property
    def running(self) -> int:
        """Streaming: how many have started and not ended."""
        return len(self._open)

    def started(self, now: float, delay: float) -> None:
        if self._starts:
            self.spread += (abs(delay - self._before) - self.spread) / min(self._starts, _SPREAD_OVER)
        self._starts += 1
        self._before = delay
        self._last = (now, delay)
        if not self.blocking:
            insort(self._open, (now - delay, delay))

    def finished(self, now: float, seconds: float, in_flight: int) -> float | None:
        """Seconds of the run without its delay; None for an attempt that was no run (a refused input)."""
        delay = self._delay_of(now, seconds)
        # Runs that were lost or left to the server are never told to end: no more are open than are in flight.
        del self._open[: max(0, len(self._open) - max(0, in_flight - 1))]
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
            return self._open.pop(min(near, key=lambda i: abs(self._open[i][0] - sent)))[1]
        last, self._last = self._last, None
        if last is None or now - last[0] > _SAME or last[1] > seconds:
            return None
        self.blocking = True
        self._open.clear()
        return last[1]


class Gain:
    """Compares how long runs take at a level with how long they took at half of it.

    Runs a second are level / seconds: they grow with the level only if the seconds do not. Logarithms, so that one
    very long run does not decide.
    """

    def __init__(self, level: int) -> None:
        self.proven: int = 0  # the highest level at which enough runs were seen to end, and to gain
        self._level = level
        self._here: list[float] = []
        self._lower: tuple[int, list[float]] | None = None

    def seen(self, level: int, run: float) -> int | None:
        """A run sent and ended at this level. Gives the level to go back to if the last step up brought nothing."""
        if level >= _STEP * self._level:
            if len(self._here) >= _COMPARED // 2:
                self._lower = (self._level, self._here)
            self._level, self._here = level, []
        elif self._level >= _STEP * level:
            self._level, self._here, self._lower = level, [], None
        self.proven = min(self.proven, level)
        enough = max(_COMPARED, self._level // 2)
        if len(self._here) >= enough:
            self.proven = self._level
            return None
        self._here.append(math.log(max(run, 1e-3)))
        if len(self._here) < enough:
            return None
        level, runs = self._lower or (self._level, self._here)
        slower = fmean(self._here) - fmean(runs)
        error = math.sqrt(variance(self._here) / enough + variance(runs) / len(runs))
        if level == self._level or slower - _ERRORS * error <= _NO_GAIN * math.log(self._level / level):
            self.proven = self._level
            return None
        self._level, self._here, self._lower = level, runs, None
        return level
