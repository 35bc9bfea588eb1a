"""The batch itself on the command line: settings, log, display and signals around it, and how its end is shown."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dify_batch.cli.channels import Shown, fail, to_json, unexpected, write
from dify_batch.cli.signals import signals
from dify_batch.errors import DifyBatchError, Exit

if TYPE_CHECKING:
    from dify_batch.cli.beside import Beside
    from dify_batch.cli.logs import Logs
    from dify_batch.seams import Seams
    from dify_batch.settings import Settings
    from dify_batch.summary import Notice, Stats, Summary


class Report(Protocol):
    """What the engine hands back."""

    @property
    def summary(self) -> Summary: ...
    @property
    def error(self) -> DifyBatchError | None: ...
    @property
    def exit_status(self) -> Exit: ...
    @property
    def plan(self) -> Shown | None: ...
    @property
    def next_steps(self) -> tuple[str, ...]: ...
    @property
    def parts(self) -> int: ...


def run(given: Mapping[str, Any], *, collect: bool = False) -> int:
    """`collect`: see run_batch."""
    from dify_batch.cli.logs import Logs
    from dify_batch.settings import load_settings

    settings, warnings = load_settings(given)
    with Logs(settings) as logs:
        import asyncio
        import logging

        for warning in warnings:
            logging.getLogger("dify_batch").warning("%s", warning)
        beside: Beside | None = None
        try:
            from dify_batch.cli.beside import Beside, unexpected_end
            from dify_batch.seams import Seams
            from dify_batch.summary import Notice, Stats

            seams = Seams()
            stats = Stats(clock=seams.clock, notices=[Notice("setting", warning) for warning in warnings])
            beside = Beside(settings, stats, seams)
            report = asyncio.run(_run(settings, stats, logs, seams, beside, collect=collect))
            written = beside.report()
            report = _with_warnings(report, [*beside.notices, *_lost_lines(settings, logs)])
            status = _end(settings, stats, report, page=settings.report if written else None)
            if not settings.dry_run:
                beside.ended(report.error, report.summary)
            return status
        except DifyBatchError as error:
            logs.trace(error.message, error)
            status = int(error.exit_status)
            if not _nobody_needed(settings, error.exit_status):
                status = fail(error, machine=settings.json, key=settings.api_key.reveal())
            if beside is not None:
                beside.ended(error)
            return status
        except Exception as error:  # noqa: BLE001 - see main
            logs.trace("unexpected error", error)
            status = fail(unexpected(error, settings), machine=settings.json, key=settings.api_key.reveal())
            if beside is not None:
                beside.ended(unexpected_end(error))
            return status


def _lost_lines(settings: Settings, logs: Logs) -> Iterator[Notice]:
    """The warning that the log is not whole, where it is so."""
    if logs.lost is not None:
        import logging

        from dify_batch.summary import Notice

        text = f"{settings.log_file} is not whole: {logs.lost}"
        logging.getLogger("dify_batch").warning("%s", text)
        yield Notice("log_incomplete", text)


def _with_warnings(report: Report, more: Sequence[Notice]) -> Report:
    """The report with what has gone wrong beside the batch."""
    if not more:
        return report
    import dataclasses

    from dify_batch.batch.invocation import BatchReport

    if not isinstance(report, BatchReport):
        return report
    warnings = (*report.summary.warnings, *more)
    return dataclasses.replace(report, summary=dataclasses.replace(report.summary, warnings=warnings))


# Objects between two searches for reference cycles. A row leaves none behind, and with hundreds in flight Python's 700
# make it search all the time: about a sixth of the CPU.
_GC_EVERY = 50_000
# Seconds after which a busy event loop lets the thread that writes go on. At Python's 5 ms hundreds of intents gather
# meanwhile, and those rows are sent, and answered, all at once for ever after.
_SWITCH_AFTER = 0.0001


async def _run(settings: Settings, stats: Stats, logs: Logs, seams: Seams, beside: Beside, *, collect: bool) -> Report:
    """The engine with a display beside it and the signals wired to its control."""
    import asyncio
    import gc

    from dify_batch.batch.control import Control
    from dify_batch.batch.invocation import run_batch
    from dify_batch.cli.progress import choose_display, keep_showing
    from dify_batch.cli.snapshot import Asked

    gc.freeze()  # what has been imported stays anyway
    gc.set_threshold(_GC_EVERY)
    sys.setswitchinterval(_SWITCH_AFTER)
    control = Control()
    asked = Asked(
        concurrency=0 if settings.concurrency == "auto" else settings.concurrency,
        rate=settings.rate,
        wait=settings.wait,
        mode=settings.mode,
    )
    display = choose_display(json=settings.json, quiet=settings.quiet, asked=asked, clock=seams.clock)
    if logs.console is not None:
        logs.console.write = display.write

    def say(text: str) -> None:
        if not settings.json:
            display.write(text)

    task = asyncio.create_task(keep_showing(display, stats))
    watch = asyncio.create_task(beside.watch())
    try:
        with signals(control, stats, say):
            if settings.workers is not None:
                from dify_batch.scale.running import run_workers

                return await run_workers(settings, control=control, stats=stats, seams=seams)
            report: Report = await run_batch(settings, control=control, stats=stats, seams=seams, collect=collect)
            return report
    finally:
        for what, each in (("the progress display stopped", task), ("metrics and notification stopped", watch)):
            each.cancel()
            (ended,) = await asyncio.gather(each, return_exceptions=True)
            if isinstance(ended, Exception):  # neither is a reason to end a batch
                logs.trace(what, ended)
        display.close()
        if logs.console is not None:
            logs.console.write = None


def _end(settings: Settings, stats: Stats, report: Report, *, page: Path | None = None) -> int:
    """Shows what the engine reports, on the channels of the contract."""
    key = settings.api_key.reveal()
    status, plan, error = report.exit_status, report.plan, report.error
    if status == Exit.OK:
        if settings.json or plan is not None:
            shown = to_json((plan or report.summary).as_dict()) if settings.json or plan is None else plan.text()
            # Data is shown as it is but for the key, which has no character that JSON would escape.
            write(sys.stdout, (shown.replace(key, "********") if key else shown).rstrip("\n") + "\n")
        elif not settings.quiet:
            write(sys.stderr, _summary(settings, stats, report, page) + "\n")
        return int(status)
    if error is None:
        error = DifyBatchError("the batch did not end well, and gave no reason")
    if settings.json:
        return fail(error, machine=True, summary=report.summary.as_dict(), status=status, key=key)
    if _nobody_needed(settings, status):
        return int(status)
    write(sys.stderr, _summary(settings, stats, report, page) + "\n")
    return fail(error, machine=False, status=status, key=key)


def _nobody_needed(settings: Settings, status: Exit) -> bool:
    """With -q: the status alone says "run it again", which cron does anyway."""
    return settings.quiet and not settings.json and status == Exit.UNFINISHED


def _summary(settings: Settings, stats: Stats, report: Report, page: Path | None) -> str:
    from dify_batch.cli.progress_text import summary_text
    from dify_batch.cli.snapshot import FailureKinds
    from dify_batch.masking import mask

    failures = sorted(FailureKinds().update(stats.failures), key=lambda kind: -kind.count)
    files = settings.results
    if report.parts:
        files = files.with_name(f"{files.stem}.*of{report.parts}{files.suffix}")
    text = summary_text(report.summary, files, failures, report.next_steps, page=page)
    return mask(text, settings.api_key.reveal())
