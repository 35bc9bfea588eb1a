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
bears it, and falls at once to what the server was seen to bear. Only requests sent after the last change let it
grow: that is the debounce, in runs rather than seconds, so runs of 0.2 s and of ten minutes are treated alike.
Everything here is counting; there are no tasks and no waiting. `room.py` keeps it from taking all of the server.

What it does not promise: a run that has been sent cannot be called back, so a queue that got long drains at the
server's speed; rows sorted by how long they take can look like a slower server (the limit falls back one step and
tries again after `_NO_GAIN_HOLD`); and where starts are as random as the runs are long, it is slow to grow.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

from dify_batch.engine.room import LEAVES_ONE, Room
from dify_batch.engine.runlengths import Gain, Runs

# Against a server that shows no sign at all: 128 of Dify's worker processes with their 4 places (dify-wire section 8).
MOST = 512
# As many as without `auto`: short batches are the common case, and a default Dify bears that many.
START = 5
# Grow while fewer than this wait: half a run and a tenth of those in flight. Below, a delay is hardly above its noise.
_GROW_BELOW = (0.5, 0.10)
# Shrink when more than this wait: far enough above _GROW_BELOW that the limit rests in between, and such that less
# than twice the capacity stays in flight: q = n - capacity > 1 + n/4 when n > (capacity + 1) * 4/3.
_SHRINK_ABOVE = (1.0, 0.25)
# A cut goes to this part of what was useful, so that the queue empties and the delay without one is seen again.
_CUT_BELOW_USEFUL = 0.9
# One cut takes at most three quarters: the estimate rests on a few delays.
_DEEPEST_CUT = 0.25
# Delays kept since the last change: with the spread as large as the run, the mean of 32 tells a queue of a tenth of
# those in flight from none. Fewer do where delays are regular.
_WINDOW = 32
# The latest, of requests sent before it or after, show whether a queue grows.
_LATEST = 16
# Of delays that scatter, the short ones come first: before twice their spread has passed they tell nothing.
_LAST_TO_START = 2.0
# Changes of the limit remembered: requests as old as that have long ended, or are too few to matter.
_LEVELS = 64
_LEAST_SPREAD = 0.001  # delays closer than this, seconds, are the same
_TICK = 1e-6  # seconds; below the resolution of any clock here, and not 0
_USED = 0.9  # this part in flight is the whole: a place is empty between an end and the next start
_FEW = 4  # a queue shows from so many delays on, or from all in flight if there are fewer
# For so long, in runs, too many must wait before their number alone is a queue: runs may end and start in step.
_LONG_WAIT = 0.5
_CHANCE = 3.0  # a delay within three standard errors of the usual one is chance
# Starts alone, before any run has ended, may take the limit to this: 4 of Dify's worker processes (dify-wire section
# 1). Beyond, each doubling waits until enough runs at the present limit have ended, and have not become slower.
_UNPROVEN = 16
# Refusals within a second are one event: all of them met the same full server.
_ONE_EVENT = 1.0
# A refusal cuts to this, or to the runs beside it, the server's own measure. A twentieth costs no more than that.
_CUT_REFUSED = 0.95
# After a refusal so many seconds before the next try for more: a try that fails costs a request.
_REFUSED_HOLD = 5.0
# After growth that brought nothing, so many seconds before the next try: it costs the server, and takes longer to see.
_NO_GAIN_HOLD = 30.0


@dataclass(frozen=True, slots=True)
class _Start:
    delay: float  # seconds
    level: int  # how many were in flight with it, as far as is known
    fresh: bool  # sent since the limit last changed


class AutoLimit:
    """A `Limit` that looks for the server's best.

    Args:
        most: never more in flight than this.
        start: how many to begin with.
        clock: seconds, monotonic.
    """

    def __init__(self, *, most: int = MOST, start: int = START, clock: Callable[[], float]) -> None:
        self._most = most
        self._clock = clock
        self._current = max(1, min(start, most))
        self._step = 1
        self._slow_start = start < LEAVES_ONE  # beyond, it is known what the server bears
        self._runs = Runs()
        self._gain = Gain(self._current)
        self._room = Room(START)
        self._base: float | None = None
        self._base_of = 1  # delays that the base was measured by
        self._measuring = False  # after a cut: the next delay is the base
        self._hold = float("-inf")
        self._refused = float("-inf")
        self._began: float | None = None  # time of the first start
        # Since the last change of the limit, and only of requests sent after it:
        self._since = float("-inf")
        self._added = 1
        self._starts = 0
        self._recent: deque[tuple[float, bool]] = deque(maxlen=_WINDOW)  # delay, was the limit used
        # Since it last fell, of all requests: what they waited for is the limit at the time they were sent.
        self._latest: deque[_Start] = deque(maxlen=_LATEST)
        self._levels: deque[tuple[float, int]] = deque([(float("-inf"), self._current)], maxlen=_LEVELS)  # since, limit
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
        self._room.ended(now)
        if self._runs.blocking:
            self._saw_start(now, sent, seconds - run, in_flight)
        else:
            self._count_waiting(now, in_flight if in_flight == self._current else in_flight - 1, ended=1)
        if sent < self._since:
            return
        back_to = self._gain.seen(self._current, run)
        if back_to is not None and back_to < self._current:
            self._slow_start, self._step, self._hold = False, 1, now + _NO_GAIN_HOLD
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
        self._slow_start, self._step, self._hold = False, 1, now + _REFUSED_HOLD
        self._change(now, max(1, target))

    def looked(self, seconds: float, in_flight: int) -> None:
        """A harmless question was answered after so long, with so many in flight when it was asked."""
        now = self._clock()
        back_to = self._room.looked(now, seconds, in_flight, self._runs.mean)
        if back_to is None:
            self._consider(now, in_flight)
        elif back_to < self._current:
            self._slow_start, self._step = False, 1
            self._change(now, back_to, keeping=True)  # what the delays tell is told all the same

    # ---------------------------------------------------------------- what it says about the server

    def _saw_start(self, now: float, sent: float, delay: float, in_flight: int) -> None:
        if self._base is None:
            self._base = delay
        level = next((level for since, level in reversed(self._levels) if since <= sent), self._current)
        fresh = sent >= self._since
        self._latest.append(_Start(delay, min(level, in_flight) if fresh else level, fresh))
        scatter = self._needed(self._base + self._runs.mean) > 1
        if fresh and (not scatter or now - self._since >= self._base + _LAST_TO_START * self._runs.spread):
            self._starts += 1
            self._recent.append((delay, in_flight >= _USED * self._current))
        self._consider(now, in_flight)

    def _count_waiting(self, now: float, in_flight: int, ended: int = 0) -> None:
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
                self._slow_start, self._step = False, 1
                # The place of a run that has just ended is the next one's, whose start nobody has told yet.
                target = max(1, self._runs.running + ended, int(_DEEPEST_CUT * self._current))
                self._change(now, min(target, self._current))
                self._measuring = True

    def _on_the_way(self, in_flight: int, total: float) -> float:
        """Streaming: how many have not started, beyond those that need their time to."""
        if self._runs.blocking or self._base is None or 2 * self._base > total:
            return 0.0  # where most are always on the way, they may start in volleys
        return in_flight - self._runs.running - in_flight * self._base / total

    def _needed(self, total: float) -> int:
        """How many delays tell a queue that allows growth from one that does not."""
        error = max(_TICK, self._allowed() / self._current * total)
        return max(1, min(_WINDOW, math.ceil((self._runs.spread / error) ** 2)))

    def _allowed(self) -> float:
        return _GROW_BELOW[0] + _GROW_BELOW[1] * self._current

    def _too_many(self, waiting: float) -> bool:
        return waiting > _SHRINK_ABOVE[0] + _SHRINK_ABOVE[1] * self._current

    def _consider(self, now: float, in_flight: int) -> None:
        """Grow, shrink or rest."""
        if not self._latest or self._base is None or self._began is None:
            return
        # Before the first run has ended: it takes at least so long.
        run = self._runs.mean or now - self._began
        level = max(1, min(in_flight, self._current))
        delay = fmean(start.delay for start in self._latest)
        excess = delay - self._base
        then = fmean(start.level for start in self._latest)
        served = max(then, level) * (1 - excess / max(run + delay, _TICK))
        latest = len(self._latest)
        # Blocking, runs of one length answer in volleys: few delays may be of one volley.
        enough = min(self._current, max(_FEW, self._current // 2 if self._runs.blocking else 0), _LATEST)
        if latest >= enough and self._too_many(level - served) and excess > _CHANCE * self._error(latest):
            self._cut(now, served)
            return
        if not self._recent:
            return
        seen = len(self._recent)
        delay = fmean(delay for delay, _ in self._recent)
        total = max(run + delay, _TICK)
        error = self._error(seen)
        # Blocking, those that do not wait answer first: only a whole turn tells of all.
        turn = self._current if self._runs.blocking else self._added
        if self._starts < max(self._needed(total), turn) or 2 * sum(used for _, used in self._recent) <= seen:
            return
        if delay < self._base - error:
            self._base, self._base_of = delay, seen
        sure = delay - self._base > _CHANCE * error
        if self._current == 1 and sure:  # alone in flight: the server has become slow to start; begin anew
            self._settle(delay)
            self._slow_start = True
        elif self._measuring:
            left = level * (delay - self._base) / total
            if delay - self._base > error and left >= self._allowed():
                self._cut(now, level - left)  # the first cut was too small: the queue was still growing
            else:
                self._settle(delay)
            return
        waiting = level * (delay - self._base - error) / total
        if max(waiting, self._on_the_way(in_flight, total)) < self._allowed():
            if abs(delay - self._base) <= 2 * error:  # no more than chance: a better measure of the same
                self._base += (delay - self._base) * seen / (seen + self._base_of)
                self._base_of = min(_WINDOW, self._base_of + seen)
            self._grow(now)
        elif sure or not self._slow_start:
            self._slow_start, self._step = False, 1  # a small queue: right

    def _error(self, seen: int) -> float:
        """Standard error of the difference between the mean of so many delays and the base, seconds."""
        return max(_LEAST_SPREAD, self._runs.spread) * math.sqrt(1 / seen + 1 / self._base_of)

    # ---------------------------------------------------------------- what follows

    def _grow(self, now: float) -> None:
        if now < self._hold:
            return
        step = self._current if self._slow_start else self._step
        target = min(self._current + step, self._most, max(_UNPROVEN, 2 * self._gain.proven))
        target = self._room.bounded(now, self._current, target, self._runs.mean, silent=self._runs.blocking)
        if target > self._current:
            self._step = min(2 * (target - self._current), max(1, target // 2))
            if self._current < LEAVES_ONE <= target:  # from here on one by one at first, then faster again
                self._slow_start, self._step = False, 1
            self._change(now, target)

    def _cut(self, now: float, served: float) -> None:
        """Too many wait: only `served` of those in flight do not."""
        self._slow_start, self._step = False, 1
        if self._current > 1:
            target = round(max(_CUT_BELOW_USEFUL * served, _DEEPEST_CUT * self._current))
            self._change(now, max(1, min(target, self._current - 1)))
            self._measuring = True

    def _settle(self, delay: float) -> None:
        """This is the delay of a server without a queue."""
        self._base, self._base_of, self._measuring = delay, max(1, len(self._recent)), False

    def _change(self, now: float, target: int, *, keeping: bool = False) -> None:
        if target < self._current and not keeping:
            self._latest.clear()
        self._added = max(1, target - self._current)
        self._current = target
        self._levels.append((now, target))
        self._since = now
        self._starts = 0
        self._recent.clear()
        self._measuring = False
        self._waiting_since = None
