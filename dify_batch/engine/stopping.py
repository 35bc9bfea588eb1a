"""How a batch stops before its end: signals, limits, errors that concern every row."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Protocol

from dify_batch.dify import cures
from dify_batch.engine.work import Work
from dify_batch.errors import AppError, AuthError, BatchStopped, DifyBatchError, RateLimited, ServerError
from dify_batch.outcomes import Fatal
from dify_batch.seams import Clock
from dify_batch.text import count

log: logging.Logger = logging.getLogger("dify_batch")

# After a second signal the runs are stopped on the server; so long, in seconds, for it to say how each ended.
STOP_WITHIN = 30.0
# A stop that is not answered for so long, seconds, waits behind the streams of the runs: each holds one of the server's
# connections (10 by default), and gives it up at the next ping once its client has gone.
_UNANSWERED = 3.0
# A stop shows in the run's status within 0.1 to 0.3 s [16].
_LOOK_AGAIN = 0.5


class Client(Protocol):
    """What is used of the client."""

    async def stop(self, task_id: str, *, user: str) -> None: ...


class UnderWay(Protocol):
    """The rows under way, as a stop needs them."""

    def works(self) -> Iterable[Work]:
        """Rows whose request or run may be going on."""

    def cancel(self, *, unnamed_only: bool) -> None:
        """Ends the waiting for rows; `unnamed_only`: for those whose run has no name yet."""

    def let_go(self) -> None:
        """Closes the streams of runs that are known; from then on their details tell how they end."""

    async def look_again(self, within: float) -> bool:
        """Waits for so many seconds at most for runs to end, and looks at them; false if none is left."""

    def changed(self) -> None:
        """Something has changed that may let the batch end."""


class Stopping:
    """Why no more rows are taken, and how far the stop goes.

    Args:
        under_way: the rows. `release`: lets everybody go who waits for the server.
        look_with: what to type to see the failures.
    """

    def __init__(
        self, client: Client, clock: Clock, under_way: UnderWay, *, release: Callable[[], None], look_with: str
    ) -> None:
        self._client = client
        self._clock = clock
        self._under_way = under_way
        self._release = release
        self._look_with = look_with
        self.taking: bool = True
        self.error: DifyBatchError | None = None
        self.stopped_runs: bool = False
        self.abandoned: bool = False
        self._failures = 0
        self._most_failures: int | None = None
        self._halted = asyncio.Event()
        self._left = asyncio.Event()
        self._stop: asyncio.Task[None] | None = None

    @property
    def leaving(self) -> bool:
        """Nothing is waited for any more; what is open stays in the journal."""
        return self._left.is_set()

    async def sleep(self, seconds: float) -> None:
        """Sleeps, or less if no more rows are taken."""
        await _sleep_or(self._halted, seconds)

    async def pause(self, seconds: float) -> None:
        """Sleeps, or less if the batch leaves."""
        await _sleep_or(self._left, seconds)

    def fail(self, error: DifyBatchError) -> None:
        """An error ends the batch: no more rows; what runs is finished. The first error is the one that is told."""
        if self.error is None:
            log.info("the batch stops: %s", error.message)
        self.drain(error)

    def drain(self, error: DifyBatchError) -> None:
        """No more rows; what runs is finished."""
        if self.error is None:
            self.error = error
        self._take_no_more()

    def leave(self) -> None:
        """Nothing is waited for any more."""
        self._left.set()
        self._take_no_more()

    def _take_no_more(self) -> None:
        self.taking = False
        self._halted.set()
        self._release()
        self._under_way.changed()

    def limit_failures(self, most: int | None) -> None:
        self._most_failures = most

    def count_failure(self) -> None:
        self._failures += 1
        if self._most_failures is not None and self._failures >= self._most_failures and self.taking:
            have = count(self._failures, "row has", "rows have")
            self.fail(
                BatchStopped(
                    f"{have} failed, as many as --max-failures allows",
                    hint=f"look at the failures with: {self._look_with}",
                )
            )

    def begin_stop(self) -> None:
        """The second signal."""
        if self._stop is None:
            self._stop = asyncio.get_running_loop().create_task(self._stop_runs())

    async def stopped(self) -> None:
        """Waits for the end of a stop that has begun; it is bounded by STOP_WITHIN."""
        if self._stop is not None:
            await asyncio.shield(self._stop)

    async def _stop_runs(self) -> None:
        """Stops the runs on the server and waits until it says how each ended.

        A run whose task id is not known cannot be stopped by its client: its row stays in the journal and is looked up
        by the next invocation.
        """
        self._take_no_more()
        self.stopped_runs = True
        works = list(self._under_way.works())
        stops = [(work.ref.task_id, work.user) for work in works if work.ref and work.ref.task_id and work.user]
        log.warning("stopping %s on the server", count(len(stops), "run", "runs"))
        left = [work for work in works if not (work.ref and work.ref.task_id)]
        blocking = sum(work.mode == "blocking" for work in left)
        if blocking:
            log.warning(
                "%s no task id yet and cannot be stopped", count(blocking, "blocking run has", "blocking runs have")
            )
        if len(left) - blocking:
            log.warning(
                "%s not begun, as far as the server has said, and cannot be stopped",
                count(len(left) - blocking, "request has", "requests have"),
            )
        self._under_way.cancel(unnamed_only=True)
        deadline = self._clock.monotonic() + STOP_WITHIN

        async def stop(task_id: str, user: str) -> None:
            try:
                await self._client.stop(task_id, user=user)
            except DifyBatchError as error:
                log.warning("a run could not be stopped: %s", error.message)

        stopping = asyncio.gather(*(stop(task_id, user) for task_id, user in stops))
        if not await self._within(stopping, _UNANSWERED):
            log.warning("the server answers nothing while the runs hold its connections: their streams are closed")
            self._under_way.let_go()
            await self._within(stopping, deadline - self._clock.monotonic())
        stopping.cancel()
        while self._clock.monotonic() < deadline and not self.abandoned:
            if not await self._under_way.look_again(_LOOK_AGAIN):
                break
        self.abandon()

    async def _within(self, stopping: asyncio.Future[list[None]], seconds: float) -> bool:
        """Whether all has been done within so many seconds; not waited for once somebody has lost patience."""
        until = self._clock.monotonic() + seconds
        while not stopping.done() and not self.abandoned and (left := until - self._clock.monotonic()) > 0:
            await asyncio.wait({stopping}, timeout=min(left, _LOOK_AGAIN))
        return stopping.done()

    def abandon(self) -> None:
        """The third signal: ends now, with what is journalled."""
        self.abandoned = True
        self.leave()
        self._under_way.cancel(unnamed_only=False)


async def _sleep_or(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


def error_of_fatal(outcome: Fatal) -> DifyBatchError:
    """The error that a fatal answer ends the batch with."""
    server = {"code": outcome.code, "message": outcome.message, "status": outcome.http_status}
    if outcome.kind == "auth" and outcome.code == "token_expired":  # of a sign-in, which has no key
        return AuthError(
            f"the server refuses the sign-in: {outcome.message}",
            code=outcome.code,
            hint="sign in again (dify-batch auth login), then run the same command again",
            http_status=outcome.http_status,
            server=server,
        )
    if outcome.kind == "auth":
        return AuthError(
            f"the server refuses the API key: {outcome.message}",
            hint=cures.of_code("unauthorized"),
            http_status=outcome.http_status,
            server=server,
        )
    if outcome.kind == "quota":
        return RateLimited(
            f"a quota is used up: {outcome.message}",
            hint="wait until it is renewed or raise it, then run the same command again",
            http_status=outcome.http_status,
            server=server,
        )
    if outcome.hint is not None:  # not the app's fault
        return AppError(outcome.message, hint=outcome.hint, http_status=outcome.http_status)
    return AppError(
        f"the app cannot run: {outcome.message}",
        hint=cures.of_code(outcome.code, outcome.message),
        code="access_denied" if outcome.http_status == 403 else "server_4xx_other",
        http_status=outcome.http_status,
        server=server,
    )


def error_of_outage(reason: str, seconds: float, *, alike: bool, throttled: bool) -> DifyBatchError:
    """The error that a batch ends with after an outage that has lasted for so long as --max-outage allows."""
    waited = f"{seconds:g} s"
    if alike:
        return BatchStopped(
            f"{reason}; it was tried again for {waited}",
            hint="the fault is hardly the rows': look at the workflow, or at its model provider's limits; a lower "
            "--rate helps against those. Then run the same command again",
        )
    if throttled:
        return RateLimited(
            f"the server refused every run for {waited}: {reason}",
            hint="run the same command again later; --max-outage sets how long it waits",
        )
    return ServerError(
        f"the server was away for {waited}: {reason}",
        code="network_connection",
        hint="run the same command again when the server is back; --max-outage sets how long it waits",
    )
