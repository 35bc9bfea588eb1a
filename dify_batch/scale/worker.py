"""A worker: a process that runs the parts which its coordinator gives it, one after the other.

    python -m dify_batch.scale.worker

It is started by the coordinator, and finds in its environment where that listens. Once the coordinator has gone it
sends nothing more, finishes what runs, and ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys

from dify_batch.batch.control import Control
from dify_batch.batch.invocation import run_batch
from dify_batch.batch.placed import Placed
from dify_batch.errors import DifyBatchError
from dify_batch.ids import Shard
from dify_batch.scale.figures import NUMBERS
from dify_batch.scale.handing import received
from dify_batch.scale.messages import Done, Figures, Garbled, Grant, Hello, Log, Part, Stop
from dify_batch.scale.permits import BEAT_EVERY, WorkerPermits
from dify_batch.scale.wire import ADDRESS, TOKEN, Wire
from dify_batch.seams import REAL, Seams
from dify_batch.summary import Stats
from dify_batch.usage import exact_prices

FIGURES_EVERY = 0.25  # seconds: as often as a display draws them
GATHER = 0.002  # seconds in which several rows share one report
_GC_EVERY, _SWITCH_AFTER = 50_000, 0.0001  # see cli/batch.py

log: logging.Logger = logging.getLogger("dify_batch")


class Worker:
    """`key`, `base_url`: of the server, from the environment."""

    def __init__(self, wire: Wire, *, key: str, base_url: str, seams: Seams = REAL) -> None:
        self._wire = wire
        self._key, self._base_url = key, base_url
        self._seams = seams
        self._permits = WorkerPermits(seams.clock, self._changed)
        self._timer: asyncio.Handle | None = None
        self._urgent = False
        self._control: Control | None = None
        self._task: asyncio.Task[None] | None = None

    async def work(self) -> None:
        """Does what the coordinator says until that ends it, or has gone."""
        beat = asyncio.ensure_future(self._beat())
        try:
            while (message := await self._wire.receive()) is not None:
                match message:
                    case Grant():
                        self._permits.granted(message)
                    case Part():
                        self._task = asyncio.ensure_future(self._run(message))
                    case Stop(how="quit"):
                        return
                    case Stop(how=how):
                        self._stop(how)
                    case _:
                        log.debug("a %s is nothing for a worker", message.kind)
        except Garbled as error:
            log.error("%s", error)
        finally:
            beat.cancel()
            self._permits.close()
            if self._control is not None:
                self._control.drain("SIGTERM")
            if self._task is not None:
                await asyncio.gather(self._task, return_exceptions=True)

    def _stop(self, how: str) -> None:
        if self._control is not None:
            {"drain": self._control.drain, "stop": self._control.stop, "abandon": self._control.abandon}[how]()

    # ---------------------------------------------------------------- one part

    async def _run(self, part: Part) -> None:
        seams = self._seams
        self._control = control = Control()
        stats = Stats(clock=seams.clock)
        self._permits.most, self._permits.tells_times, self._permits.tells_use = part.most, part.times, part.use
        self._permits.take_up(part.part)
        placed = Placed(
            permits=self._permits,
            most=part.most,
            again=part.again,
            limit=part.limit,
            checked=None if part.checked is None else tuple(part.checked),  # type: ignore[arg-type]
        )
        watching = asyncio.ensure_future(self._show(part.part, stats))
        error: DifyBatchError | None
        summary = stats.summary()
        try:
            settings = received(
                part.settings,
                Shard(part.of, part.part),
                concurrency="auto" if part.times else max(part.most, part.of),
                api_key=self._key,
                base_url=self._base_url,
            )
            report = await run_batch(
                settings, control=control, stats=stats, seams=seams, placed=placed, collect=part.collect
            )
            error, summary = report.error, report.summary
        except DifyBatchError as failed:
            error = failed
        except Exception as failed:
            log.debug("unexpected", exc_info=failed)
            error = DifyBatchError(f"unexpected error in a worker: {type(failed).__name__}: {failed}", code="unknown")
        finally:
            watching.cancel()
            self._control = None
        self._figures(part.part, stats)
        told = None if error is None else error.as_dict()
        self._wire.send(Done(part=part.part, summary=summary.as_dict(), error=told))

    async def _show(self, part: int, stats: Stats) -> None:
        while True:
            await asyncio.sleep(FIGURES_EVERY)
            self._figures(part, stats)

    def _figures(self, part: int, stats: Stats) -> None:
        summary = stats.summary()
        numbers = {name: getattr(stats, name) for name in NUMBERS}
        numbers["total_price"] = dict(exact_prices(stats.used.prices))
        numbers["failures"] = [[code, text, number] for (code, text), number in stats.failures.items()]
        numbers["mode"], numbers["mode_why"] = summary.mode, summary.mode_why
        self._wire.send(Figures(part=part, numbers=numbers))

    # ---------------------------------------------------------------- what the coordinator hears of permits

    def _changed(self, urgent: bool) -> None:
        if self._timer is not None:
            if not urgent or self._urgent:
                return
            self._timer.cancel()
        self._urgent = urgent
        loop = asyncio.get_running_loop()
        self._timer = loop.call_soon(self._report) if urgent else loop.call_later(GATHER, self._report)

    def _report(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._urgent = None, False
        self._wire.send(self._permits.report())

    async def _beat(self) -> None:
        while True:
            self._report()
            await asyncio.sleep(BEAT_EVERY)


class Told(logging.Handler):
    """Tells the coordinator the lines of the log, who shows them as its own."""

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self._wire = wire

    def emit(self, record: logging.LogRecord) -> None:
        row = getattr(record, "row", None)
        text = record.getMessage()
        with contextlib.suppress(Exception):
            self._wire.send(Log(level=record.levelno, text=text, row=None if row is None else str(row)))


async def main() -> int:
    """The exit status: 0, or 1 where no coordinator is to be found."""
    port, token = os.environ.get(ADDRESS, ""), os.environ.get(TOKEN, "")
    if not port.isdigit() or not token:
        return 1
    try:
        wire = await Wire.to(int(port))
    except OSError:
        return 1
    wire.send(Hello(token=token, pid=os.getpid()))
    log.addHandler(Told(wire))
    log.setLevel(int(os.environ.get("DIFY_BATCH_WORKER_LOG", logging.WARNING)))
    log.propagate = False
    gc.freeze()
    gc.set_threshold(_GC_EVERY)
    sys.setswitchinterval(_SWITCH_AFTER)
    key, base_url = os.environ.get("DIFY_API_KEY", ""), os.environ.get("DIFY_API_BASE_URL", "")
    try:
        await Worker(wire, key=key, base_url=base_url).work()
    finally:
        await wire.close()
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the coordinator's
    raise SystemExit(asyncio.run(main()))
