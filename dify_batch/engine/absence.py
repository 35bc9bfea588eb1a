"""When "not in the server's log" proves that a POST made no run, and none will come of it. Pure.

A run that waits in Dify's queue is in no log and can start later [26a2, 26a5], so the log's silence alone says nothing.
It counts when all of this holds, `t` being the last moment at which the server can have taken the request: when its
answer was lost, as until then it may have stood before the server's door:

    drained    every run of the app that began before t + 5 s has ended, or is probably dead: the queue that the row
               could stand in has been worked off
    alive      since t some run of the app has started or ended, so work is taken up at all
    settled    a settle time has passed since both became true and since the server answers again
    reaching   the log shows a run from before t, or t is younger than a day: a log that forgets proves nothing
    last       nothing else of this invocation is left to run, so that what waits in a queue had the whole batch to
               show up
    aged       the row was sent at least so long ago; where a worker seems to have died, an hour and more: what a dead
               worker had reserved goes to another one only then

and one more look shows nothing. The rule comes from a model of queue and client: over 600 histories time alone sent 23
rows twice, drained, alive and settled 3, with last as well 1, with the least age none.
"""

from __future__ import annotations

from dataclasses import dataclass

SLACK = 5.0
"""Seconds: a queue is first in, first out only roughly. Of six runs sent in one millisecond to four places the third,
fifth and sixth began before the second."""

LEAST_AGE = 120.0
"""Seconds since the POST before its absence counts."""

AGE_IN_SETTLE_TIMES = 12.0
"""A user who sets a shorter --settle knows the queue: the least age follows, so that the default of 10 s gives 120."""

SETTLE_FACTOR = 3.0
"""The settle time is so many times the longest delay from POST to start: a queue may well double while nobody looks."""

LOG_REACHES = 86_400.0
"""Seconds: every log holds a day. (Dify's cloud forgets runs after 30 days on its free plan.)"""


REDELIVERED = 3900.0
"""Seconds: Celery gives what a dead worker had reserved to another one an hour after it was reserved (its Redis
transport's `visibility_timeout`, 3600 s, which Dify leaves as it is), and looks every few minutes."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known about the app at the moment of a look.

    Args:
        now: seconds, monotonic.
        age: seconds since the row was sent.
        unfinished: runs begun before t + SLACK that have not ended and are not probably dead; None: not known.
        alive: a run has started or ended since t.
        answering_since: monotonic; since when the server answers, as far as is known.
        reaching: the log shows a run from before t. Asked only of a row that is older than LOG_REACHES.
        last: nothing else of this invocation is left to run.
        died: a worker seems to have died with what it had reserved, perhaps this row.
    """

    now: float
    age: float
    unfinished: int | None
    alive: bool
    answering_since: float
    reaching: bool
    last: bool
    died: bool = False


def settle_time(least: float, longest_delay: float) -> float:
    """Seconds. `least`: --settle; `longest_delay`: the longest from POST to start that was seen lately."""
    return max(least, SETTLE_FACTOR * longest_delay)


def least_age(settle: float) -> float:
    """Seconds since its POST before a row's absence may count; `settle`: --settle."""
    return min(LEAST_AGE, AGE_IN_SETTLE_TIMES * settle)


def lacking(evidence: Evidence, both_since: float | None, *, settle: float, age: float) -> str | None:
    """What is missing from the proof, in words; None if nothing is.

    Args:
        both_since: monotonic; since when drained and alive hold together, as this invocation has seen it.
        settle, age: seconds, from `settle_time` and `least_age`.
    """
    if evidence.unfinished is None:
        return "the server's log does not tell which runs still go on"
    if evidence.unfinished:
        runs = "1 run that began" if evidence.unfinished == 1 else f"{evidence.unfinished} runs that began"
        return f"{runs} before it or with it still {'goes' if evidence.unfinished == 1 else 'go'} on"
    if not evidence.alive:
        return "no run has started or ended since it was sent"
    if both_since is None or evidence.now - max(both_since, evidence.answering_since) < settle:
        return "the settle time is not over"
    if evidence.age < age:
        return f"it was sent less than {age:g} s ago"
    if evidence.died and evidence.age < REDELIVERED:
        return "a worker seems to have died, and what it had reserved comes back within an hour"
    if evidence.age > LOG_REACHES and not evidence.reaching:
        return "the server's log does not reach back so far"
    if not evidence.last:
        return "other rows are still to run"
    return None
