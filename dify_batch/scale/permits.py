"""The permits of one worker: what lets its rows go, and what the coordinator is told of them.

A permit holds for LIFETIME seconds after the beat of this worker's own clock that the coordinator had heard when it
gave it. So nothing has to be believed of two clocks, nor of how long a message was on its way: a worker that was
stopped, or cut off, has none any more when it goes on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from dify_batch.engine.permits import Engaged
from dify_batch.engine.work import Work
from dify_batch.scale.messages import Grant, Report
from dify_batch.seams import Clock
from dify_batch.usage import Use, exact_prices

LIFETIME = 10.0
"""Seconds."""
BEAT_EVERY = 1.0
"""Seconds: a permit holds for nine at least."""
HANDFUL = 64
"""As many may be there that are not used: at 5,000 rows a second what goes in a dozen milliseconds."""

_FEW = 2
LOOKED_AT = 5.0
"""Seconds in which the rows that an earlier worker left open have been looked for once. Those of them that have a run
hold a place from then on; the others wait for the proof that they have none, for which others must be able to go."""
_ASK_AGAIN = 0.2  # seconds; a row whose permit ran out before it was sent waits for another


@dataclass(slots=True)
class _Permit:
    deadline: float
    not_before: float


class WorkerPermits:
    """`changed`: called when the coordinator should hear of it; true if it is urgent: rows wait for permits."""

    def __init__(self, clock: Clock, changed: Callable[[bool], None]) -> None:
        self._clock = clock
        self._changed = changed
        self._engine: Engaged | None = None
        self._permits: deque[_Permit] = deque()
        self._unsent: set[Work] = set()
        self._holding = 0  # permits that rows have taken and wait for the moment of
        self._open = True
        self.most: int = 1
        self.tells_times: bool = False  # the coordinator looks for the best concurrency
        self.tells_use: bool = False  # it keeps a budget
        self.used: int = 0
        self.dropped: int = 0
        self._ended = 0
        self._failed = 0
        self._started: list[float] = []
        self._finished: list[float] = []
        self._looked: list[float] = []
        self._throttled = 0
        self._uses: list[tuple[int | None, dict[str, str] | None]] = []
        self._part = 0
        self._looked_at = False
        self._attached_at = float("-inf")

    # ---------------------------------------------------------------- what the coordinator says and hears

    def granted(self, grant: Grant) -> None:
        now = self._clock.monotonic()
        deadline = grant.beat + LIFETIME
        if not self._open or deadline <= now:
            self.dropped += grant.count + len(grant.after)
            self._changed(True)
            return
        self._permits.extend(_Permit(deadline, now) for _ in range(grant.count))
        self._permits.extend(_Permit(deadline, now + seconds) for seconds in grant.after)
        if self._engine is not None:
            self._engine.changed()

    def close(self) -> None:
        """The coordinator has gone: no row goes any more."""
        self._open = False
        self._drop_all()

    def take_up(self, part: int) -> None:
        """A part begins; `report` tells it once the engine has taken up what was left of it."""
        self._part = part
        self._looked_at = False

    def report(self) -> Report:
        """What has happened since the last one."""
        self._drop_expired()
        engine = self._engine
        busy = want = lost = 0
        outage = ""
        if engine is not None:
            busy = max(0, engine.taken_places() - len(self._unsent))
            lost = engine.being_looked_up()
            waited = self._clock.monotonic() - self._attached_at >= LOOKED_AT
            self._looked_at = self._looked_at or not lost or waited
            outage = engine.outage()
            spare = self._spare
            want = max(0, -spare)
            if engine.has_rows():
                want = max(want, HANDFUL - max(0, spare))
        told = Report(
            beat=self._clock.monotonic(),
            used=self.used,
            dropped=self.dropped,
            busy=busy,
            lost=lost,
            want=want if self._open else 0,
            ended=self._ended,
            failed=self._failed,
            outage=outage,
            at=self._part if self._looked_at else 0,
            started=tuple(self._started),
            finished=tuple(self._finished),
            looked=tuple(self._looked),
            throttled=self._throttled,
            uses=tuple(self._uses),
        )
        self._started.clear()
        self._finished.clear()
        self._looked.clear()
        self._uses.clear()
        self._throttled = 0
        return told

    # ---------------------------------------------------------------- what the engine says

    def attach(self, engine: Engaged) -> None:
        self._engine = engine
        self._attached_at = self._clock.monotonic()
        self._changed(True)

    def detach(self) -> None:
        self._engine = None
        self._unsent.clear()
        self._drop_all()

    @property
    def _spare(self) -> int:
        """Permits beyond the rows that have been taken and wait for one; below 0: rows that wait in vain."""
        return len(self._permits) + self._holding - len(self._unsent)

    def may_take(self) -> bool:
        if self._spare > 0:
            self._drop_expired()
            if self._spare > 0:
                return True
        self._changed(self._few)
        return False

    @property
    def _few(self) -> bool:
        """Whether so little goes on here that each row is worth a message of its own."""
        return self._engine is not None and self._engine.taken_places() - len(self._unsent) <= _FEW

    def took(self, work: Work) -> None:
        self._unsent.add(work)

    def let_go(self, work: Work) -> None:
        if work in self._unsent:
            self._unsent.discard(work)
        else:
            self._ended += 1
        self._changed(self._few and not self._permits)

    async def use(
        self, work: Work, may_send: Callable[[], bool], pause: Callable[[float], Awaitable[None]]
    ) -> Callable[[], bool] | None:
        clock = self._clock
        while may_send():
            self._drop_expired()
            if not self._permits:
                self._changed(True)
                await pause(_ASK_AGAIN)
                continue
            permit = self._permits.popleft()
            if (wait := permit.not_before - clock.monotonic()) > 0:
                self._holding += 1
                try:
                    await pause(wait)
                finally:
                    self._holding -= 1
            if permit.deadline <= clock.monotonic() or not may_send():
                self.dropped += 1
                continue
            self.used += 1
            self._unsent.discard(work)
            self._changed(False)
            return lambda: clock.monotonic() < permit.deadline
        return None

    def told(self, use: Use) -> None:
        if not self.tells_use:
            return
        prices = use.prices
        self._uses.append((use.tokens, None if prices is None else exact_prices(prices)))

    def failed(self) -> None:
        self._failed += 1

    # ---------------------------------------------------------------- as a limit

    @property
    def current(self) -> int:
        return self.most

    def started(self, delay: float, in_flight: int) -> None:
        if self.tells_times:
            self._started.append(delay)

    def finished(self, seconds: float, in_flight: int) -> None:
        if self.tells_times:
            self._finished.append(seconds)

    def looked(self, seconds: float, in_flight: int) -> None:
        self._looked.append(seconds)

    def throttled(self, in_flight: int) -> None:
        self._throttled += 1
        self._changed(True)

    # ---------------------------------------------------------------- permits that nobody uses

    def _drop_expired(self) -> None:
        now = self._clock.monotonic()
        while self._permits and self._permits[0].deadline <= now:
            self._permits.popleft()
            self.dropped += 1

    def _drop_all(self) -> None:
        self.dropped += len(self._permits)
        self._permits.clear()
        self._changed(True)
