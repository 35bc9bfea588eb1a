"""How a batch stops before its end: signals, limits, errors that concern every row."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from dify_batch.errors import AppError, AuthError, BatchStopped, DifyBatchError, RateLimited
from dify_batch.outcomes import Fatal

if TYPE_CHECKING:
    from dify_batch.engine.runner import Engine

log = logging.getLogger("dify_batch")

# After a second signal the runs are stopped on the server; so long, in seconds, for it to say how each ended.
STOP_WITHIN = 30.0
# A stop shows in the run's status within 0.1 to 0.3 s [16].
_LOOK_AGAIN = 0.5


class Stopping:
    """Why no more rows are taken, and how far the stop goes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.taking = True
        self.error: DifyBatchError | None = None
        self.stopped_runs = False
        self.abandoned = False
        self._failures = 0
        self._most_failures: int | None = None
        self._halted = asyncio.Event()
        self._stop: asyncio.Task[None] | None = None

    async def sleep(self, seconds: float) -> None:
        """Sleeps, or less if no more rows are taken."""
        try:
            async with asyncio.timeout(seconds):
                await self._halted.wait()
        except TimeoutError:
            pass

    def fail(self, error: DifyBatchError) -> None:
        """An error ends the batch: no more rows; what runs is finished. The first error is the one that is told."""
        if self.error is None:
            self.error = error
            log.info("the batch stops: %s", error.message)
        self._take_no_more()

    def drain(self, error: DifyBatchError) -> None:
        """No more rows; what runs is finished."""
        if self.error is None:
            self.error = error
        self._take_no_more()

    def _take_no_more(self) -> None:
        self.taking = False
        self._halted.set()
        self._engine.outage.close()
        self._engine.pool.wake()

    def limit_failures(self, count: int | None) -> None:
        self._most_failures = count

    def count_failure(self) -> None:
        self._failures += 1
        if self._most_failures is not None and self._failures >= self._most_failures and self.taking:
            have = "row has" if self._failures == 1 else "rows have"
            self.fail(
                BatchStopped(
                    f"{self._failures} {have} failed, as many as --max-failures allows",
                    hint="look at the failures with: dify-batch status " + str(self._engine.settings.output),
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
        """The second signal: stops the runs on the server and waits until it says how each ended.

        A run whose task id is not known (still queued, or blocking) cannot be stopped by its client: its row stays
        in the journal and is looked up by the next invocation.
        """
        self._take_no_more()
        self.stopped_runs = True
        engine = self._engine
        for task, item in list(engine.pool.running.items()):
            if item.ref is None:
                task.cancel()
        for task in list(engine.waiting):
            task.cancel()
        items = [item for item in [*engine.pool.running.values(), *engine.watched.values()] if item.ref is not None]
        log.warning("stopping %d runs on the server", len(items))
        deadline = time.monotonic() + STOP_WITHIN

        async def stop(task_id: str, user: str) -> None:
            try:
                await engine.client.stop(task_id, user=user)
            except DifyBatchError as error:
                log.warning("a run could not be stopped: %s", error.message)

        stops = [stop(item.ref.task_id, item.user) for item in items if item.ref and item.ref.task_id and item.user]
        await asyncio.gather(*stops)
        while (engine.pool.running or engine.watched) and time.monotonic() < deadline and not self.abandoned:
            if engine.pool.running:
                await asyncio.wait(list(engine.pool.running), timeout=_LOOK_AGAIN)
            else:
                await asyncio.sleep(_LOOK_AGAIN)
            await engine.followup.look_at_watched()
        self.abandon()

    def abandon(self) -> None:
        """The third signal: ends now, with what is journalled."""
        self.abandoned = True
        engine = self._engine
        engine.give_up()
        for task in [*engine.pool.running, *engine.waiting]:
            task.cancel()


def error_of_fatal(outcome: Fatal) -> DifyBatchError:
    """The error that a fatal answer ends the batch with."""
    server = {"code": outcome.code, "message": outcome.message, "status": outcome.http_status}
    if outcome.kind == "auth":
        return AuthError(
            f"the server refuses the API key: {outcome.message}",
            hint="check DIFY_API_KEY: the app's page in Dify, API Access, API Key",
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
    hints = {
        "not_published": "publish the workflow in Dify, then run the same command again",
        "not_workflow_app": "use the API key of a workflow app",
        "app_unavailable": "publish the app in Dify, then run the same command again",
        "provider_not_initialize": "set the model provider up in Dify (Settings, Model Provider)",
        "model_currently_not_support": "choose a model in the workflow that its provider offers",
        "forbidden": "turn the app's API on in Dify (API Access)",
        "not_found": "check DIFY_WORKFLOW_ID and DIFY_API_BASE_URL (does it end in /v1?)",
        "redirect": "check DIFY_API_BASE_URL (https instead of http?)",
    }
    return AppError(
        f"the app cannot run: {outcome.message}",
        hint=hints.get(outcome.code, "look at the app in Dify, then run the same command again"),
        code="access_denied" if outcome.http_status == 403 else "server_4xx_other",
        http_status=outcome.http_status,
        server=server,
    )
