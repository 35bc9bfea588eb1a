"""The health of the server, as the requests of all rows show it: one object, told each outcome, asked by everybody.

It holds the outage that all rows share and the limit of runs in flight, and remembers what the rules need: how long
runs took to start and to end, when the last of them did, what was lost together, and whether all runs fail alike.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Iterable
from statistics import median

from dify_batch.engine.absence import settle_time
from dify_batch.engine.limit import Limit
from dify_batch.engine.outage import Outage
from dify_batch.outcomes import (
    Failed,
    Fatal,
    Lost,
    Outcome,
    Paused,
    Rejected,
    Running,
    Succeeded,
    Throttled,
    Unreachable,
)
from dify_batch.seams import Clock

log: logging.Logger = logging.getLogger("dify_batch")

# Dify stops a run after 20 minutes by itself, so a worker has died within 25 of the start of a run that it left open,
# and what it had reserved then was sent within as much of that start (seconds).
_LONGEST_RUN = 1500.0
# Start delays older than so many starts say nothing of the queue of today.
_DELAYS_KEPT = 200
# Times of ends that are kept to tell the clock of the log by.
_TIMES_KEPT = 20
# Runs that dead workers left open, of which the newest matter.
_ORPHANS_KEPT = 200
# So many runs in a row that end with the same error, none succeeding between, are no accident of single rows: the
# batch holds. Ten paid failures are bearable, and the rows of one bad customer are rarely more.
ALIKE = 10
# A firewall's word about one row's text is that row's refusal; about so many in a row it may be the whole batch's.
FOREIGN = 3
# So many runs in a row that a gateway does not pass, though it passes the probes between, are all runs.
FOREIGN_TO_ALL = 10
# What differs between two errors of the same kind: ids, numbers, times.
_PARTICULAR = re.compile(r"[0-9a-f]{8,}|\d+(?:\.\d+)?")
# Of an error's text so much decides whether it is the same.
_COMPARED = 200


def kind_of_error(text: str) -> str:
    """An error's text without what is particular to one run."""
    return _PARTICULAR.sub("#", text[:_COMPARED])


class Health:
    """Told by attempts, followers and look-ups; asked by pool, course and look-ups.

    Args:
        outage: the wait that all rows share.
        limit: how many runs may be in flight.
        settle: --settle, seconds. `longest_pause`: a Retry-After beyond it makes all rows wait.
    """

    def __init__(self, outage: Outage, limit: Limit, clock: Clock, *, settle: float, longest_pause: float) -> None:
        self.outage = outage
        self.limit = limit
        self._clock = clock
        self._settle = settle
        self._longest_pause = longest_pause
        self._delays: deque[float] = deque(maxlen=_DELAYS_KEPT)
        self.lost_together: set[str] = set()
        """The rows lost since the server last dealt with one. Whoever was lost keeps hold of this very set."""
        self._activity = {"streaming": float("-inf"), "blocking": float("-inf")}
        self._alike = ("", 0)
        self._foreign = 0
        self._ahead: deque[float] = deque(maxlen=_TIMES_KEPT)
        self._orphans: deque[float] = deque(maxlen=_ORPHANS_KEPT)
        self.longest_run: float = 0.0
        """Seconds; of all runs whose end this output has seen."""

    # ---------------------------------------------------------------- what is told

    def expect_delays(self, delays: Iterable[float]) -> None:
        """Start delays that an earlier invocation saw: the queue of then may be the queue of now."""
        self._delays.extend(delays)

    def started(self, delay: float, mode: str, in_flight: int, sent: float) -> None:
        """A run, `sent` then (monotonic), has started or was answered so long after its POST (seconds)."""
        self.found(delay, mode)
        self.limit.started(delay, in_flight)
        self.served(sent)

    def found(self, delay: float, mode: str) -> None:
        """A look-up has found a run that started so long after its POST: its delay teaches, too."""
        self._delays.append(max(0.0, delay))
        self.active(mode)

    def active(self, mode: str) -> None:
        """A run of ours has started or ended now."""
        self._activity[mode] = self._clock.monotonic()

    def told_time(self, ahead: float) -> None:
        """A run has just ended at a time that is so far ahead (seconds) of the server's time as its answers' `Date`
        tells it: something in front may set that from a clock of its own."""
        self._ahead.append(ahead)

    def worker_died(self, begun: float) -> None:
        """A streamed run, begun then (server's time), seems to have lost its worker."""
        self._orphans.append(begun)

    def served(self, sent: float, *, ended: bool = False) -> None:
        """The server has dealt with a request that runs a workflow, `sent` then (monotonic). `ended`: to its end; that
        a run has begun does not show that it will not fail as all before it."""
        if self.lost_together:
            self.lost_together = set()
        if ended or not self.outage.alike:
            self.outage.answered(sent)

    def ended(self, outcome: Outcome, mode: str) -> None:
        """A run of ours has come to its end, whoever told it."""
        if isinstance(outcome, Succeeded | Failed):
            self.active(mode)
            self.longest_run = max(self.longest_run, outcome.result.elapsed_time or 0.0)
        if isinstance(outcome, Succeeded | Paused):
            self._alike = ("", 0)
        elif isinstance(outcome, Failed) and outcome.code == "run_failed":
            kind = kind_of_error(outcome.message)
            self._alike = (kind, self._alike[1] + 1 if kind == self._alike[0] else 1)
            if self.all_alike:
                reason = f"{self._alike[1]} runs in a row failed alike: {outcome.message}"
                self.outage.begin(reason, throttled=True, alike=True)

    def note(self, outcome: Outcome, *, row_id: str, seconds: float, sent: float, in_flight: int, first: bool) -> None:
        """What an attempt says about the server.

        Args:
            seconds: how long it took; `sent`: when it was sent (monotonic).
            in_flight: how many were, itself included; `first`: it was the row that goes first after an outage.
        """
        outage, limit = self.outage, self.limit
        if not (isinstance(outcome, Rejected | Unreachable) and outcome.foreign):
            self._foreign = 0
        match outcome:
            case Unreachable(message=message, foreign=True):
                self._foreign += 1
                # It answers a probe and passes no run: only a run can tell when that is over.
                outage.begin(message, throttled=self._foreign >= FOREIGN_TO_ALL)
            case Unreachable(message=message):
                outage.begin(message)
            case Throttled(message=message, retry_after=retry_after):
                limit.throttled(in_flight)
                pause = retry_after or 0.0
                # With others in flight the limit falls and they go on; alone, or asked to by the server, all wait.
                if in_flight <= 1 or first or pause > self._longest_pause:
                    outage.begin(message, throttled=True, pause=pause)
            case Lost(server_error=True, reason=reason, retry_after=retry_after):
                self.lost_together.add(row_id)
                outage.begin(reason, pause=retry_after or 0.0)
            case Lost():
                self.lost_together.add(row_id)
                if first:
                    outage.answered()
            case Fatal() | Running():
                if first:
                    outage.answered()
            case Failed() if self.all_alike:
                limit.finished(seconds, in_flight)  # and `ended` has begun the hold
            case Rejected(foreign=True, message=message):
                self._foreign += 1
                if self._foreign >= FOREIGN:
                    outage.begin(message)
                elif first:
                    outage.answered()
            case _:
                limit.finished(seconds, in_flight)
                self.served(sent, ended=True)

    # ---------------------------------------------------------------- what is asked

    @property
    def all_alike(self) -> bool:
        """Whether so many runs in a row have failed with the same error that it is hardly the rows' fault."""
        return self._alike[1] >= ALIKE

    @property
    def settle_time(self) -> float:
        """Seconds; see `absence.py`."""
        return settle_time(self._settle, max(self._delays, default=0.0))

    def excuses(self, lost_at: float, together: set[str]) -> bool:
        """Whether a loss (monotonic) is the server's fault: it was away when it was asked, or it failed at least two
        rows with none served between (`together`: the set of `lost_together` at that time)."""
        return self.outage.confirmed_at >= lost_at or len(together) >= 2

    def alive_since(self, sent: float, mode: str) -> bool:
        """Whether a run of ours has started or ended since (monotonic). A streamed request waits for a worker, of which
        a blocking run, executed by the API itself, proves nothing."""
        modes = ("streaming",) if mode == "streaming" else ("streaming", "blocking")
        return any(self._activity[name] > sent for name in modes)

    def worker_died_near(self, sent: float) -> bool:
        """Whether a worker seems to have died that may have reserved a request sent then (server's time)."""
        return any(abs(sent - begun) <= _LONGEST_RUN for begun in self._orphans)

    @property
    def log_ahead(self) -> float:
        """Seconds by which the times of runs are ahead of the server's time as `Date` tells it; 0.0 where they are
        behind, or nothing is known: only later is the careful side."""
        return max(0.0, median(self._ahead)) if self._ahead else 0.0

    def away_since(self, moment: float) -> bool:
        """Whether the server was seen to be away after a moment (monotonic)."""
        return self.outage.confirmed_at > moment


# A run is probably dead when it has said running for so many times the longest run seen, and for so long (seconds).
_DEAD_AFTER_RUNS = 3.0
_DEAD_AFTER = 30.0


def probably_dead(suspect_for: float | None, longest_run: float) -> bool:
    """Whether a run whose executor was seen to be away has said running for too long since.

    `suspect_for`: seconds since the sign (blocking: its connection was cut and the API was away; streaming: its
    worker's pings stopped while the API answered); None without a sign.
    """
    return suspect_for is not None and suspect_for >= max(_DEAD_AFTER, _DEAD_AFTER_RUNS * longest_run)
