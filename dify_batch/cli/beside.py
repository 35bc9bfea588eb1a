"""What runs beside a batch and never changes how it ends: metrics, notifications, the report at its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from dify_batch.errors import DifyBatchError
from dify_batch.ledger.disk import Disk
from dify_batch.summary import Notice

if TYPE_CHECKING:
    from dify_batch.reports.metrics import Metrics
    from dify_batch.reports.notify import Notifier
    from dify_batch.seams import Seams
    from dify_batch.settings import Settings
    from dify_batch.summary import Stats, Summary

EVERY = 1.0  # seconds between two looks: what a scrape gets is never older
WRITE_EVERY = 10.0  # seconds between two files: node_exporter reads every 15 s at the usual settings
AWAY = "waiting for the server"

log: logging.Logger = logging.getLogger("dify_batch")


class OutageWatch:
    """How long the server has been away, seen by looking at the state now and then. Pure."""

    def __init__(self, tell_after: float) -> None:
        self._tell_after = tell_after
        self._since: float | None = None
        self._last = 0.0
        self._told = False
        self.total: float = 0.0

    def look(self, now: float, state: str) -> float | None:
        """Takes a look at `now` (monotonic seconds). Seconds of the outage, once in each that has lasted so long."""
        away = state.startswith(AWAY)
        if self._since is not None:
            self.total += now - self._last
        if not away:
            self._since, self._told = None, False
        elif self._since is None:
            self._since = now
        self._last = now
        if self._since is None or self._told or now - self._since < self._tell_after:
            return None
        self._told = True
        return now - self._since


class Beside:
    """Made before a batch: what is asked for and cannot be done is told before anything is sent.

    Raises:
        UsageError: an extra is missing, a port is taken, an address is none, the report's target is none.
    """

    def __init__(self, settings: Settings, stats: Stats, seams: Seams) -> None:
        self._settings, self._stats, self._seams = settings, stats, seams
        self._metrics: Metrics | None = None
        self._notifier: Notifier | None = None
        # A third of what is waited for at most: the rest is time to do something about it.
        self._outage = OutageWatch(settings.max_outage / 3)
        self._written = float("-inf")
        self.notices: list[Notice] = []
        """What has gone wrong, for the summary of --json."""
        self._disk = Disk()
        if settings.dry_run:
            return
        if settings.report is not None:
            from dify_batch.ledger.formats import Paths
            from dify_batch.reports.html.report import check_target

            check_target([Paths.of(settings.results)], settings.report)
        if settings.notify:
            from dify_batch.reports.notify import Notifier

            self._notifier = Notifier(settings.notify)
        if settings.metrics is not None:
            from dify_batch.reports.metrics import Metrics

            self._metrics = Metrics(settings.metrics, str(settings.results), self._disk)

    async def watch(self) -> None:
        """Looks at the figures until cancelled."""
        if self._metrics is None and self._notifier is None:
            return
        telling: set[asyncio.Task[bool]] = set()
        try:
            while True:
                outage = self._outage.look(self._seams.clock.monotonic(), self._stats.state)
                if outage is not None and self._notifier is not None:
                    task = asyncio.create_task(self._tell_outage(outage))
                    telling.add(task)
                    task.add_done_callback(telling.discard)
                self._measure()
                await asyncio.sleep(EVERY)
        finally:
            for task in telling:
                task.cancel()

    def _measure(self, *, last: bool = False) -> None:
        if self._metrics is None:
            return
        self._metrics.update(self._stats, self._outage.total)
        now = self._seams.clock.monotonic()
        if not last and now - self._written < WRITE_EVERY:
            return
        self._written = now
        try:
            self._metrics.write()
        except OSError as error:
            self._warn(
                "metrics_failed", f"--metrics: {self._settings.metrics} cannot be written: {error.strerror or error}"
            )

    async def _tell_outage(self, seconds: float) -> bool:
        from dify_batch.reports.notification import Notification

        assert self._notifier is not None
        summary = self._stats.summary().as_dict()
        return await self._notifier.send(
            Notification(
                "outage", str(self._settings.results), self._seams.clock.wall(), summary, outage_seconds=seconds
            )
        )

    def report(self) -> bool:
        """Writes the page of --report; whether there is one now. What goes wrong is a warning."""
        if self._settings.report is None or self._settings.dry_run:
            return False
        from dify_batch.reports.html.report import write_report

        try:
            write_report([self._settings.results], self._settings.report, now=self._seams.clock.wall(), disk=self._disk)
        except DifyBatchError as error:
            self._warn("report_failed", f"--report: {error.message}")
            return False
        return True

    def _warn(self, code: str, text: str) -> None:
        log.warning("%s", text)
        if all(notice.code != code for notice in self.notices):
            self.notices.append(Notice(code, text))

    def ended(self, error: DifyBatchError | None, summary: Summary | None = None) -> None:
        """The last figures, and the notification. Another process at work on the output is nobody's end."""
        self._measure(last=True)
        if self._metrics is not None:
            self._metrics.close()
        if self._notifier is None or (error is not None and error.code == "output_locked"):
            return
        from dify_batch.reports.notification import ending

        told = ending(
            str(self._settings.results),
            self._seams.clock.wall(),
            summary or self._stats.summary(),
            self._stats.failures,
            error,
        )
        with contextlib.suppress(KeyboardInterrupt):  # who presses Ctrl-C now does not want to wait for it
            asyncio.run(self._notifier.send(told))


def unexpected_end(error: Exception) -> DifyBatchError:
    """An error nobody foresaw, as an end: its text is left out."""
    return DifyBatchError(type(error).__name__, code="unknown")
