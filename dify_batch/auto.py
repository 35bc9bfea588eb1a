"""`--concurrency auto`: finds how many runs in flight serve best, while they run.

Dify throttles in three ways, and each gives a sign:
- It refuses (dify-wire section 5): `throttled`. The runs beside the refused one are all that it bears.
- Streaming runs are accepted at once and queue silently (dify-wire section 8): the delay from POST to
  workflow_started grows; or runs end and none starts any more.
- Blocking runs wait unanswered for a connection slot (section 8): the answer takes longer than the run itself.
A server that does none of these may still be full, when all its runs get slower together: then more in flight no
longer brings more runs a second.

How much of a delay is a queue? With `n` in flight, of which `q` wait, both what goes in and what comes out is
n / (run + delay) a second (Little's law), so q = n * (delay - base) / (run + delay), where base is the delay without
a queue. The aim is a small queue: with none the server may be idle, with a long one nothing is gained.

The limit doubles (slow start) until the first such sign. After that it grows by 1, then by 2, 4, ... while the server
bears it, and falls at once to what the server was seen to bear. Only requests sent after the last change say
something about the limit as it is now: that is the debounce, and it needs no time constant, so runs of 0.2 s and of
ten minutes are treated alike. Everything here is counting; there are no tasks and no waiting.

What it does not promise: a run that has been sent cannot be called back, so a queue that got long drains at the
server's speed; and with rows sorted by how long they take, a change of run time can look like a slower server (the
limit then falls back one step, and tries again after `_NO_GAIN_HOLD`).
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

from dify_batch.auto_runs import Gain, Runs

# Beyond this a client on one core, and Dify's database, are the bottleneck: dify-wire section 8 has 4 to 10 places a
# process, so this is fifty workers.
_MOST = 512
# Grow while fewer than this wait: half a run, or a tenth of those in flight. A queue of one keeps a worker from ever
# being idle, and below a tenth the delay is hardly above its noise.
_GROW_BELOW = (0.5, 0.10)
# Shrink when more than this wait: far enough above _GROW_BELOW that the limit rests in between, and such that less
# than twice the capacity stays in flight: q = n - capacity > 1 + n/4 when n > (capacity + 1) * 4/3.
_SHRINK_ABOVE = (1.0, 0.25)
# A cut goes to this part of what was useful, so that the queue empties and the delay without one is seen again.
_CUT_BELOW_USEFUL = 0.9
# One cut takes at most three quarters: the estimate rests on a few delays.
_DEEPEST_CUT = 0.25
# After two cuts in a row the delay is still this part of what it was: it is not our queue. Were it ours, it would have
# fallen faster than the number in flight, which a cut brings to nine tenths of the useful part.
_FLAT = 0.75
# Delays kept since the last change: with the spread as large as the run, the mean of 32 tells a queue of a tenth of
# those in flight from none. Fewer do where delays are regular.
_WINDOW = 32
# Of these the latest show whether a queue grows: as many as are still clear of the spread, and no older.
_LATEST = 16
_TICK = 1e-6  # seconds; below the resolution of any clock here, and not 0
# A queue shows from so many delays on, or from all in flight if there are fewer.
_FEW = 4
# So many runs' time for runs to wait before their number alone is a queue: runs may end and start in step.
_LONG_WAIT = 0.5
# A delay within three standard errors of the usual one is chance.
_CHANCE = 3.0
# Starts alone, before any run has ended, may take the limit to this: 4 workers of Dify's default of 4 (dify-wire
# section 1). Beyond, each doubling waits until runs at the present limit have ended.
_UNPROVEN = 16
# Refusals within a second are one event: all of them met the same full server.
_ONE_EVENT = 1.0
# A refusal cuts to this at most. The count beside the refused run is already the server's measure; a twentieth
# less keeps other users' runs from being refused, and costs no more than that in throughput.
_CUT_REFUSED = 0.95
# After a refusal so many seconds before the next try for more: a try that fails costs a request.
_REFUSED_HOLD = 5.0
# After growth that brought nothing, so many seconds before the next try: it costs the server, and takes longer to see.
_NO_GAIN_HOLD = 30.0
# Resting with a small queue, the delay without one is measured again, by a dip below the useful number, not sooner
# than after this many seconds and this many runs: the dip takes about two runs and a third of the speed.
_DIP_AFTER = (20.0, 30.0)


@dataclass(frozen=True, slots=True)
class _Trial:
    """The limit was cut; what will the delay be with that?"""

    before: int  # limit to go back to if the delay was not our queue
    delay: float | None  # of the previous cut of the same series, measured at `level`
    level: int
    dip: bool = False


class AutoLimit:
    """A `Limit` that looks for the server's best.

    Args:
        most: never more in flight than this.
        clock: seconds, monotonic.
    """

    def __init__(self, *, most: int = _MOST, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        # One: its delay is certainly not a queue of our own. Streaming, the second follows as soon as it has started.
        self._current = 1
        self._step = 1
        self._slow_start = True
        self._runs = Runs()
        self._gain = Gain()
        self._base: float | None = None
        self._base_of = 1  # delays that the base was measured by
        self._trial: _Trial | None = None
        self._hold = float("-inf")
        self._refused = float("-inf")
        self._proven = 0  # runs were seen to end at this limit
        self._began: float | None = None
        # Since the last change of the limit, and only of requests sent after it:
        self._since = float("-inf")
        self._added = 1
        self._starts = 0
        self._ends = 0
        self._recent: deque[tuple[float, bool]] = deque(maxlen=_WINDOW)  # delay, was the limit used
        # Since it last fell: a queue at a lower limit is one at a higher limit too.
        self._fell = float("-inf")
        self._latest: deque[float] = deque(maxlen=_LATEST)
        self._resting_since: float | None = None
        self._waiting_since: float | None = None

    @property
    def current(self) -> int:
        """How many may be in flight now."""
        return self._current

    # ---------------------------------------------------------------- what happens

    def started(self, delay: float, in_flight: int) -> None:
        """A run has started, `delay` seconds after its POST; or a blocking answer took so much longer than its run."""
        now = self._clock()
        self._began = now if self._began is None else self._began
        self._runs.started(now, delay)
        if not self._runs.blocking:
            self._saw_start(now, now - delay, delay, in_flight)
            self._count_waiting(now, in_flight)

    def finished(self, seconds: float, in_flight: int) -> None:
        """An attempt has ended, `seconds` after its POST. Without a start before it, it was no run."""
        now = self._clock()
        sent = now - seconds
        run = self._runs.finished(now, seconds, in_flight)
        if run is None:
            return
        if self._runs.blocking:
            self._saw_start(now, sent, seconds - run, in_flight)
        else:
            self._count_waiting(now, in_flight if in_flight == self._current else in_flight - 1)
        if sent < self._since:
            return
        self._ends += 1
        if self._ends >= max(min(_FEW, self._current), self._current // 2):
            self._proven = max(self._proven, self._current)
        back_to = self._gain.seen(self._current, run)
        if back_to is not None and back_to < self._current:
            self._slow_start = False
            self._hold = now + _NO_GAIN_HOLD
            self._change(now, back_to)
        else:
            self._consider(now, in_flight)

    def throttled(self, in_flight: int) -> None:
        """The server refused a run as one too many."""
        now = self._clock()
        level = min(self._current, in_flight)
        target = level - 1
        if now - self._refused >= _ONE_EVENT:
            self._refused = now
            target = min(target, int(level * _CUT_REFUSED))
        self._slow_start = False
        self._hold = now + _REFUSED_HOLD
        self._step = 1
        self._change(now, max(1, target))

    # ---------------------------------------------------------------- what it says about the server

    def _saw_start(self, now: float, sent: float, delay: float, in_flight: int) -> None:
        if sent < self._fell:
            return
        self._latest.append(delay)
        if self._base is None:
            self._base = delay
        if sent >= self._since:
            self._starts += 1
            self._recent.append((delay, in_flight >= self._current))
        self._consider(now, in_flight)

    def _count_waiting(self, now: float, in_flight: int) -> None:
        """Streaming: too many that have not started, for long, are a queue, even if no start comes to say so."""
        total = self._runs.mean + (self._base or 0.0)
        waiting = self._on_the_way(min(in_flight, self._current), total)
        if not self._runs.mean or not self._too_many(waiting):
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = now
        else:
            usual = 2 * (self._base or 0.0) + _CHANCE * self._runs.spread
            if now - self._waiting_since > max(usual, _LONG_WAIT * self._runs.mean):
                self._slow_start = False
                self._step = 1
                target = max(1, self._runs.running, int(_DEEPEST_CUT * self._current))
                self._change(now, min(target, self._current))

    def _on_the_way(self, in_flight: int, total: float) -> float:
        """Streaming: how many have not started, beyond those that need their time to."""
        if self._runs.blocking or self._base is None or total <= 0:
            return 0.0
        return in_flight - self._runs.running - in_flight * self._base / total

    def _allowed(self) -> float:
        return _GROW_BELOW[0] + _GROW_BELOW[1] * self._current

    def _needed(self, total: float) -> int:
        """How many delays tell a queue that allows growth from one that does not."""
        if total <= 0:
            return 1
        error = self._allowed() / self._current * total
        return max(1, min(_WINDOW, math.ceil((self._runs.spread / error) ** 2)))

    def _too_many(self, waiting: float) -> bool:
        return waiting > _SHRINK_ABOVE[0] + _SHRINK_ABOVE[1] * self._current

    def _consider(self, now: float, in_flight: int) -> None:
        """Grow, shrink or rest."""
        if not self._latest or self._base is None or self._began is None:
            return
        # Before the first run has ended: it takes at least so long.
        run = self._runs.mean or now - self._began
        level = max(1, min(in_flight, self._current))
        latest = len(self._latest)
        delay = fmean(self._latest)
        excess = delay - self._base
        waiting = level * excess / max(run + delay, _TICK)
        # Blocking, runs of one length answer in volleys: few delays may be of one volley.
        enough = min(self._current, max(_FEW, self._current // 2 if self._runs.blocking else 0), _LATEST)
        if (
            latest >= enough
            and self._too_many(waiting)
            and excess > _CHANCE * self._error(latest)
        ):
            self._cut(now, waiting, delay)
            return
        seen = len(self._recent)
        if not seen:
            return
        delay = fmean(delay for delay, _ in self._recent)
        total = max(run + delay, _TICK)
        error = self._error(seen)
        needed = self._needed(total)
        # Blocking, those that do not wait answer first: only a whole turn tells of all.
        turn = self._current if self._runs.blocking else self._added
        if self._starts < max(needed, turn) or 2 * sum(used for _, used in self._recent) <= seen:
            return
        if delay < self._base - error:
            self._base, self._base_of = delay, seen
        if self._trial is not None:
            self._settle(now, delay)
            return
        waiting = level * (delay - self._base - error) / total
        if max(waiting, self._on_the_way(in_flight, total)) < self._allowed():
            if abs(delay - self._base) <= 2 * error:  # no more than chance: a better measure of the same
                self._base += (delay - self._base) * seen / (seen + self._base_of)
                self._base_of = min(_WINDOW, self._base_of + seen)
            self._grow(now)
        else:
            self._rest(now, waiting, total, sure=delay - self._base > _CHANCE * error)

    def _error(self, seen: int) -> float:
        """Standard error of the difference between the mean of so many delays and the base, seconds."""
        return self._runs.spread * math.sqrt(1 / seen + 1 / self._base_of)

    # ---------------------------------------------------------------- what follows

    def _grow(self, now: float) -> None:
        if now < self._hold:
            return
        if self._slow_start:
            self._step = self._current
        most = min(self._most, max(_UNPROVEN, 2 * self._proven), 2 * self._current)
        target = min(self._current + self._step, most)
        if target > self._current:
            self._step = min(2 * (target - self._current), max(1, target // 2))
            self._change(now, target)

    def _rest(self, now: float, waiting: float, total: float, *, sure: bool) -> None:
        """A small queue: right. After a while see whether the delay without a queue is still what it was."""
        if not sure and self._slow_start:
            return
        self._slow_start = False
        self._step = 1
        if self._resting_since is None:
            self._resting_since = now
        if now - self._resting_since >= max(_DIP_AFTER[0], _DIP_AFTER[1] * total):
            dip = int(_CUT_BELOW_USEFUL * (self._current - waiting))
            if dip >= 1:
                trial = _Trial(self._current, None, self._current, dip=True)
                self._change(now, min(dip, self._current - 1))
                self._trial = trial

    def _cut(self, now: float, waiting: float, delay: float | None) -> None:
        """Too many wait. delay: measured with the present limit; None if starts have ceased."""
        trial = self._trial
        self._slow_start = False
        self._step = 1
        if self._current == 1 and delay is not None:
            self._settle(now, delay)  # alone in flight: no queue of ours
            return
        if trial is not None and trial.delay is not None and delay is not None:
            falls = self._current <= _FLAT * trial.level
            if falls and delay >= _FLAT * trial.delay:
                self._base, self._base_of = delay, len(self._latest)
                self._trial = None
                self._slow_start = True
                return
        useful = _CUT_BELOW_USEFUL * (self._current - waiting)
        target = max(1, round(max(useful, _DEEPEST_CUT * self._current)))
        before = self._current if trial is None else trial.before
        measured = delay if trial is not None else None
        level = self._current
        self._change(now, min(target, self._current))
        self._trial = _Trial(before, measured, level)

    def _settle(self, now: float, delay: float) -> None:
        """The delay after a cut is that of a server without a queue."""
        trial = self._trial
        self._trial = None
        self._base, self._base_of = delay, max(1, len(self._recent))
        if trial is not None and trial.dip:
            self._change(now, trial.before)

    def _change(self, now: float, target: int) -> None:
        if target < self._current:
            self._proven = min(self._proven, target)
            self._fell = now
            self._latest.clear()
        self._added = max(1, target - self._current)
        self._current = target
        self._since = now
        self._starts = self._ends = 0
        self._recent.clear()
        self._trial = None
        self._resting_since = self._waiting_since = None
