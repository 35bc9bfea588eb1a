"""The figures of one moment of a batch, with what only a look back tells. No text, no I/O."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dify_batch.text import one_line, pattern_of
from dify_batch.usage import price_text

if TYPE_CHECKING:
    from dify_batch.summary import Stats

RATE_WINDOW = 300.0  # seconds: long enough for runs of minutes to show a rate, short enough to follow a change
KINDS_SHOWN = 5  # kinds of failure that stay in sight


@dataclass(frozen=True, slots=True)
class Asked:
    """What the person asked for, as far as it can hold a batch back. `concurrency` is 0 for auto."""

    concurrency: int = 0
    rate: float | None = None
    wait: float = 0.0
    mode: str = ""


@dataclass(frozen=True, slots=True)
class FailureKind:
    """Failures with the same code and, but for ids and numbers, the same message."""

    count: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Figures of one moment.

    `done`: rows that have a result, as in `status`; `finished`: rows with which this batch is through, failed ones
    included. `rate`: rows per second lately, None while nothing is known of it. `state_for`: seconds since `state` has
    been what it is. `failures`: the kinds that have grown last, the newest last. `limited_by`: what keeps the batch
    from going faster.
    """

    done: int
    to_run: int
    failed: int
    in_flight: int
    limit: int
    tokens: int
    invalid: int = 0
    unknown: int = 0
    paused: int = 0
    dead: int = 0
    looking: int = 0
    state: str = ""
    rate: float | None = None
    finished: int = 0
    failures: tuple[FailureKind, ...] = ()
    limited_by: str = ""
    mode: str = ""
    price: str = ""
    state_for: float = 0.0

    @property
    def seconds_left(self) -> float | None:
        left = self.to_run - self.finished
        return left / self.rate if self.rate and left > 0 else None


class RecentRate:
    """Rows per second over the last RATE_WINDOW seconds, from samples of the count of finished rows."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def sample(self, now: float, finished: int) -> float | None:
        """Take a sample at `now` (monotonic seconds); the rate, or None where no row has finished lately."""
        samples = self._samples
        if not samples or now - samples[-1][0] >= 1.0:  # one a second keeps the window short
            samples.append((now, finished))
        while len(samples) > 2 and now - samples[1][0] >= RATE_WINDOW:
            samples.popleft()
        since, before = samples[0]
        return (finished - before) / (now - since) if now > since and finished > before else None


class FailureKinds:
    """Failures by kind, from the counts of their texts: the kinds that have grown lately come last."""

    def __init__(self) -> None:
        self._kind_of: dict[tuple[str, str], tuple[str, str]] = {}
        self._counts: dict[tuple[str, str], int] = {}
        self._texts: dict[tuple[str, str], set[str]] = {}
        self._total = 0

    def update(self, failures: Counter[tuple[str, str]]) -> list[FailureKind]:
        """All kinds by now. `failures`: (code, message) → how many."""
        total = failures.total()
        if total != self._total:  # else nothing has failed since
            self._total = total
            counts: Counter[tuple[str, str]] = Counter()
            for (code, message), number in failures.items():
                kind = self._kind_of.setdefault((code, message), (code, pattern_of(message)))
                counts[kind] += number
                self._texts.setdefault(kind, set()).add(message)
            for kind, number in counts.items():
                if number != self._counts.get(kind):
                    self._counts.pop(kind, None)
                    self._counts[kind] = number  # to the end
        return [FailureKind(number, kind[0], self._message(kind)) for kind, number in self._counts.items()]

    def _message(self, kind: tuple[str, str]) -> str:
        texts = self._texts[kind]
        return next(iter(texts)) if len(texts) == 1 else kind[1]


class Figures:
    """Makes snapshots, one after the other."""

    def __init__(self, now: Callable[[], float], asked: Asked | None = None) -> None:
        self._now = now
        self._asked = asked or Asked()
        self._rate = RecentRate()
        self._kinds = FailureKinds()
        self._state, self._since = "", now()

    def take(self, stats: Stats) -> Snapshot:
        now = self._now()
        rate = self._rate.sample(now, stats.finished)
        state = stats.state.partition(": ")[0]  # the reason after it may change while the outage goes on
        if state != self._state:
            self._state, self._since = state, now
        return replace(
            snapshot(stats, rate),
            limited_by=limited_by(stats, self._asked),
            failures=tuple(self._kinds.update(stats.failures)[-KINDS_SHOWN:]),
            mode=stats.mode or self._asked.mode,
            state_for=now - self._since if state else 0.0,
        )


def snapshot(stats: Stats, rate: float | None = None) -> Snapshot:
    return Snapshot(
        done=stats.success + stats.partial_success,
        finished=stats.finished,
        to_run=stats.to_run,
        failed=stats.failed,
        in_flight=stats.in_flight,
        limit=stats.limit,
        tokens=stats.total_tokens,
        price=price_text(stats.used.prices),
        invalid=stats.invalid,
        unknown=stats.unknown,
        paused=stats.paused,
        dead=stats.dead,
        looking=stats.looking,
        state=one_line(stats.state),
        rate=rate,
    )


def limited_by(stats: Stats, asked: Asked) -> str:
    """What keeps the batch from going faster; "" where nothing does, or where its state says it anyway."""
    if stats.state or not stats.limit or stats.to_run - stats.finished <= stats.in_flight:
        return ""
    if stats.budget_waits:
        return "the budget"
    if 0 < stats.limit < asked.concurrency:
        return "the server"
    if stats.in_flight < stats.limit:
        return "--rate" if asked.rate else "--wait" if asked.wait else ""
    return "--concurrency" if asked.concurrency else ""
