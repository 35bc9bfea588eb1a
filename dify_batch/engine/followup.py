"""What follows an outcome: kept, given up, repeated, looked up, watched."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from dify_batch.engine.policy import Decision, Follow, GiveUp, Keep, LookUp, Repeat, Stop
from dify_batch.engine.recovery import Absent, Found, Unavailable, not_found
from dify_batch.engine.stopping import error_of_fatal
from dify_batch.engine.work import Item
from dify_batch.outcomes import Failed, Fatal, Lost, Outcome, Paused, Running, RunRef, Throttled, Unreachable

if TYPE_CHECKING:
    from dify_batch.engine.runner import Engine

log = logging.getLogger("dify_batch")

# Rows that only ever fail together could go on for ever; after so many times their retries are used up as well.
_EXCUSES = 5
# A run that outlived --timeout is looked at between so often and so rarely, seconds.
_WATCH_FIRST, _WATCH_LAST = 5.0, 60.0


class FollowUp:
    """Takes a row from one outcome to the next step."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def next(self, item: Item, outcome: Outcome) -> None:
        if isinstance(outcome, Running):
            self._still_running(item, outcome)
            return
        if isinstance(outcome, Fatal):
            if item.ref is None:
                self._engine.books.dropped(item)
            self._engine.stopping.fail(error_of_fatal(outcome))
            return
        if isinstance(outcome, Paused) and item.paused_before and not self._engine.ledger.news(item.id, outcome):
            self._engine.books.still_paused(item)
            return
        decision = self._engine.policy.decide(outcome, retries=item.retries, repetition=item.repetition + 1)
        match decision:
            case Keep():
                self._engine.books.kept(item, outcome)
            case GiveUp():
                self._engine.books.given_up(item, decision)
            case Repeat():
                if isinstance(outcome, Failed):
                    item.failure = GiveUp("failed", outcome.code, outcome.message, outcome.result.ref.run_id)
                self._repeat(item, decision, shared=isinstance(outcome, Throttled | Unreachable))
            case LookUp(reason=reason):
                assert isinstance(outcome, Lost)
                log.info("the answer was lost (%s): looked up in the server's log", reason, extra={"row": item.id})
                self.look_up(item)
            case Follow() | Stop():
                raise AssertionError(decision)

    def _repeat(self, item: Item, decision: Repeat, *, shared: bool = False) -> None:
        if not self._engine.may_send(item):
            self._engine.books.dropped(item)
            return
        item.repetition += 1
        item.retries += decision.charged
        item.ref = None
        log.log(
            logging.DEBUG if shared else logging.INFO,
            "sent again in %.1f s: %s%s",
            decision.wait,
            decision.reason,
            f" (retry {item.retries} of {self._engine.policy.max_retries})" if decision.charged else "",
            extra={"row": item.id},
        )
        self._engine.later(lambda: self._engine.pool.ready.append(item), decision.wait)

    def look_up(self, item: Item) -> None:
        """Has the server asked for a lost request, outside the pool."""
        self._engine.beside(self._looked_up(item))

    async def _looked_up(self, item: Item) -> None:
        verdict = await self._engine.recovery.look_up(item)
        match verdict:
            case None:
                self._engine.books.left_open(item)
            case Found(ref=ref):
                self._found(item, ref)
            case Absent():
                log.info("no run of it in the server's log: %s", item.reason, extra={"row": item.id})
                if self._may_be_queued(item):
                    absent: Decision = GiveUp(
                        "unknown", "maybe_queued", f"{item.reason}; it may still wait in the server's queue"
                    )
                else:
                    absent = self._engine.policy.decide_absent(
                        item.reason,
                        retries=item.retries,
                        repetition=item.repetition + 1,
                        excused=self._was_server(item),
                    )
                if isinstance(absent, GiveUp) and not item.asked_again:
                    self._engine.books.given_up(item, absent)
                else:
                    self._engine.ledger.absent(item.id, item.reason)
                    self._send_again(item, absent)
            case Unavailable(reason=reason):
                unknown = self._engine.policy.decide_unavailable(
                    reason, retries=item.retries, repetition=item.repetition + 1
                )
                if isinstance(unknown, GiveUp) and not item.asked_again:
                    self._engine.books.given_up(item, unknown)
                else:
                    self._engine.ledger.absent(item.id, reason)
                    self._send_again(item, unknown)

    def _may_be_queued(self, item: Item) -> bool:
        """Whether a request that the server took and never began may still wait: none that was sent later has started.

        With no worker running a request waits for ever, and is executed when one comes back [26a, 26a5].
        """
        return item.queued and self._engine.newest_start < item.posted_at

    def _was_server(self, item: Item) -> bool:
        """Whether a loss is the server's fault, which uses up no row's retries: it was away when it was asked, or it
        failed at least two rows with none served between."""
        item.excuses += 1
        away = self._engine.outage.confirmed_at >= item.lost_at
        return (away or len(item.lost_with) >= 2) and item.excuses <= _EXCUSES

    def _send_again(self, item: Item, decision: object) -> None:
        if isinstance(decision, Repeat) and not item.asked_again:
            self._repeat(item, decision)
        else:  # the user asked for it with --retry
            item.asked_again = False
            item.ref = None
            self._engine.pool.ready.append(item)

    def _found(self, item: Item, ref: RunRef) -> None:
        """The lost request made a run: it is the row's."""
        item.ref, item.recovered = ref, True
        item.started_at = item.started_at or item.sent_at
        log.info("found on the server: run %s", ref.run_id, extra={"row": item.id})
        self._engine.ledger.started(item.id, ref, found=True)
        self._engine.pool.ready.append(item)

    def _still_running(self, item: Item, outcome: Running) -> None:
        gone = not_found(outcome)
        stuck = item.seen_running and time.time() - item.started_at >= self._engine.settings.stuck_after
        if item.asked_again and (gone or stuck):
            self._send_again(item, None)
        elif gone:
            self._engine.books.lost_sight(item, "run_not_found", f"run {outcome.ref.run_id} is unknown to the server")
        elif stuck:
            self._engine.books.lost_sight(
                item,
                "run_stuck",
                f"run {outcome.ref.run_id} has said running for more than {self._engine.settings.stuck_after:g} s; "
                "its worker is probably dead",
            )
        else:
            log.info("still running: %s; it is looked at again", outcome.reason, extra={"row": item.id})
            self._engine.watched[item.id] = item
            self._engine.books.watched(item)

    # ---------------------------------------------------------------- runs that outlived --timeout

    async def watch(self) -> None:
        """Looks at the watched runs now and then, while the batch goes on."""
        pause = _WATCH_FIRST
        while True:
            await asyncio.sleep(pause)
            pause = min(pause * 2, _WATCH_LAST) if self._engine.watched else _WATCH_FIRST
            await self.look_at_watched()

    async def look_at_watched(self) -> None:
        await asyncio.gather(*(self._look_at(item) for item in list(self._engine.watched.values())))

    async def _look_at(self, item: Item) -> None:
        outcome = await self._engine.recovery.detail(item)
        if isinstance(outcome, Unreachable | Fatal) or self._engine.watched.pop(item.id, None) is None:
            return
        item.recovered = True
        self._engine.books.unwatched(item)
        if isinstance(outcome, Running):
            self._still_running(item, outcome)
        else:
            self.next(item, outcome)
