"""The command: flags to settings, results to channels, errors to exit statuses. The only place that prints.

Standard output is for data; progress, summary and log go to standard error. With --json a success is one
JSON document on standard output and nothing on standard error, and anything else one JSON object on standard
error and nothing on standard output.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from dify_batch.cli.arguments import build_parser, parse
from dify_batch.errors import DifyBatchError, Exit, StorageError, UsageError
from dify_batch.text import count

if TYPE_CHECKING:
    from dify_batch.cli.logs import Logs
    from dify_batch.settings import Settings
    from dify_batch.summary import Stats, Summary

SHORT_USAGE = """\
usage: dify-batch -i data.csv -o results.jsonl [options]

Sends each row of a CSV to a Dify workflow and appends each answer to a JSONL.
To see it work, without an account:

  printf 'id,query\\n1,What is Dify?\\n' | dify-batch --demo -i - -o demo.jsonl

All options: dify-batch --help
"""


class Shown(Protocol):
    """What can show itself to people and to machines: a plan, a status, an export."""

    def as_dict(self) -> dict[str, Any]: ...
    def text(self) -> str: ...


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


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (sys.argv[1:] if left out) and returns its exit status; raises nothing."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal's encoding lacks must not end the command
            stream.reconfigure(errors="backslashreplace")
    machine = "--json" in arguments
    try:
        if not arguments:
            write(sys.stderr, SHORT_USAGE)
            return Exit.USAGE
        return _dispatch(arguments)
    except DifyBatchError as error:
        return fail(error, machine=machine)
    except KeyboardInterrupt:
        return fail(DifyBatchError("interrupted", code="interrupted"), machine=machine)
    except Exception as error:  # noqa: BLE001 - the promise is that no traceback ever reaches a person
        return fail(_unexpected(error), machine=machine)


def _dispatch(arguments: list[str]) -> int:
    try:
        given = parse(arguments)
    except SystemExit as end:  # argparse has printed --help or --version
        write(sys.stdout, "")
        return int(end.code or 0)
    command = given.pop("command", None)
    if command == "status":
        from dify_batch.reports.status import status_report

        return _show(status_report(Path(given["results"])), machine="json" in given)
    if command == "export":
        from dify_batch.reports.export import export

        return _show(export(Path(given["results"]), Path(given["output"])), machine="json" in given)
    if command == "completion":
        import shtab

        write(sys.stdout, shtab.complete(build_parser(completion=True), given["shell"]) + "\n")
        return Exit.OK
    return _batch(given)


def _show(report: Shown, *, machine: bool) -> int:
    write(sys.stdout, (to_json(report.as_dict()) if machine else report.text().rstrip("\n")) + "\n")
    return Exit.OK


def _batch(given: Mapping[str, Any]) -> int:
    from dify_batch.cli.logs import Logs
    from dify_batch.settings import load_settings

    settings, warnings = load_settings(given)
    with Logs(settings) as logs:
        import asyncio
        import logging

        for warning in warnings:
            logging.getLogger("dify_batch").warning("%s", warning)
        try:
            from dify_batch.summary import Stats

            stats = Stats()
            report = asyncio.run(_run(settings, stats, logs))
            return _end(settings, stats, report)
        except DifyBatchError as error:
            logs.trace(error.message, error)
            if _nobody_needed(settings, error.exit_status):
                return int(error.exit_status)
            return fail(error, machine=settings.json, key=settings.api_key.reveal())
        except Exception as error:  # noqa: BLE001 - see main
            logs.trace("unexpected error", error)
            return fail(_unexpected(error, settings), machine=settings.json, key=settings.api_key.reveal())


# Objects between two searches for reference cycles. A row leaves none behind, and with hundreds in flight Python's 700
# make it search all the time: about a sixth of the CPU.
_GC_EVERY = 50_000
# Seconds after which a busy event loop lets the thread that writes go on. At Python's 5 ms hundreds of intents gather
# meanwhile, and those rows are sent, and answered, all at once for ever after.
_SWITCH_AFTER = 0.0001


async def _run(settings: Settings, stats: Stats, logs: Logs) -> Report:
    """The engine with a display beside it and the signals wired to its control."""
    import asyncio
    import gc

    from dify_batch.batch.control import Control
    from dify_batch.batch.invocation import run_batch
    from dify_batch.cli.progress import choose_display, keep_showing

    gc.freeze()  # what has been imported stays anyway
    gc.set_threshold(_GC_EVERY)
    sys.setswitchinterval(_SWITCH_AFTER)
    control = Control()
    asked = 0 if settings.concurrency == "auto" else settings.concurrency
    display = choose_display(json=settings.json, quiet=settings.quiet, asked=asked)
    if logs.console is not None:
        logs.console.write = display.write

    def say(text: str) -> None:
        if not settings.json:
            display.write(text)

    task = asyncio.create_task(keep_showing(display, stats))
    try:
        with signals(control, stats, say):
            report: Report = await run_batch(settings, control=control, stats=stats)
            return report
    finally:
        task.cancel()
        (ended,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(ended, Exception):  # the display is no reason to end a batch
            logs.trace("the progress display stopped", ended)
        display.close()
        if logs.console is not None:
            logs.console.write = None


class Escalation:
    """Counts signals: 1 finish what runs, 2 stop it on the server, 3 and on leave at once.

    `uv run` forwards what its process group gets too, so that one Ctrl-C can arrive twice: signals within
    half a second of each other are one.
    """

    ONE_MOMENT = 0.5  # seconds

    def __init__(self) -> None:
        self._count = 0
        self._last = float("-inf")

    def received(self, now: float) -> int | None:
        """How many signals there have been; None for one of the same moment as that before."""
        if now - self._last < self.ONE_MOMENT:
            return None
        self._last = now
        self._count += 1
        return self._count


@contextlib.contextmanager
def signals(control: Any, stats: Stats, say: Any) -> Iterator[None]:
    """SIGINT and SIGTERM drive `control` as long as the context lasts; `say` tells the person."""
    import asyncio
    import signal

    loop = asyncio.get_running_loop()
    escalation = Escalation()

    def received(number: signal.Signals) -> None:
        level = escalation.received(loop.time())
        if level is None:
            return
        if level == 1:
            say(
                f"{number.name}: finishing {count(stats.in_flight, 'run')}; "
                "press Ctrl-C again to stop them on the server."
            )
            control.drain(number.name)
        elif level == 2:
            say("Stopping the runs on the server; press Ctrl-C again to leave at once.")
            control.stop()
        else:
            say("Leaving at once. The next invocation looks up what became of the runs.")
            control.abandon()

    handled = (signal.SIGINT, signal.SIGTERM)
    for number in handled:
        loop.add_signal_handler(number, received, number)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)


def _end(settings: Settings, stats: Stats, report: Report) -> int:
    """Shows what the engine reports, on the channels of the contract."""
    key = settings.api_key.reveal()
    status, plan, error = report.exit_status, report.plan, report.error
    if status == Exit.OK:
        if settings.json or plan is not None:
            shown = to_json((plan or report.summary).as_dict()) if settings.json or plan is None else plan.text()
            # Data is shown as it is but for the key, which has no character that JSON would escape.
            write(sys.stdout, (shown.replace(key, "********") if key else shown).rstrip("\n") + "\n")
        elif not settings.quiet:
            write(sys.stderr, _summary(settings, stats, report) + "\n")
        return int(status)
    if error is None:
        error = DifyBatchError("the batch did not end well, and gave no reason")
    if settings.json:
        return fail(error, machine=True, summary=report.summary.as_dict(), status=status, key=key)
    if _nobody_needed(settings, status):
        return int(status)
    write(sys.stderr, _summary(settings, stats, report) + "\n")
    return fail(error, machine=False, status=status, key=key)


def _nobody_needed(settings: Settings, status: Exit) -> bool:
    """With -q: the status alone says "run it again", which cron does anyway."""
    return settings.quiet and not settings.json and status == Exit.UNFINISHED


def _summary(settings: Settings, stats: Stats, report: Report) -> str:
    from dify_batch.cli.logs import redact
    from dify_batch.cli.progress import summary_text

    failures = [(code, message, count) for (code, message), count in stats.failures.most_common()]
    text = summary_text(report.summary, settings.output, failures, report.next_steps)
    return redact(text, settings.api_key.reveal())


def _unexpected(error: Exception, settings: Settings | None = None) -> DifyBatchError:
    """An error nobody foresaw: its type and message, and where to find or get the rest."""
    if isinstance(error, ImportError) and settings is not None and settings.demo:
        hint = 'install it: pip install "dify-batch[demo]"'
        return UsageError(f"--demo needs an extra that is not installed: {error}", code="usage_invalid_flag", hint=hint)
    hint = "add --log-file dify-batch.log and run the command again to see where; nothing is lost or sent twice"
    if settings is not None and settings.log_file is not None:
        hint = f"the traceback is in {settings.log_file}"
    return DifyBatchError(f"unexpected error: {type(error).__name__}: {error}", hint=hint, code="unknown")


def fail(
    error: DifyBatchError,
    *,
    machine: bool,
    summary: Mapping[str, Any] | None = None,
    status: Exit | None = None,
    key: str = "",
) -> int:
    """Shows an error on standard error, as text or as one line of JSON, and gives the exit status."""
    from dify_batch.cli.logs import redact, redact_all
    from dify_batch.text import printable

    key = key or os.environ.get("DIFY_API_KEY", "").strip()
    if machine:
        body = {"error": redact_all(error.as_dict(), key)}
        text = to_json(body | ({"summary": dict(summary)} if summary is not None else {}))
    else:
        text = redact(f"error: {error.message}" + (f"\n{error.hint}" if error.hint else ""), key)
        text = printable(text, keep="\n\t")
    write(sys.stderr, text + "\n")
    return int(error.exit_status if status is None else status)


def to_json(value: Mapping[str, Any]) -> str:
    """One line of JSON in ASCII: the same bytes whatever the encoding of the terminal or pipe."""
    import json

    return json.dumps(value, default=str)


def write(stream: TextIO | None, text: str) -> None:
    """Writes and flushes. A reader that has gone is no error (`dify-batch status ... | head -1`).

    Raises StorageError where standard output cannot be written for another reason, such as a full disk.
    """
    if stream is None:
        return
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError) as error:
        # What is left in the buffer would be tried again, and complained about, when Python ends.
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
        if stream is sys.stdout and not isinstance(error, BrokenPipeError):
            raise StorageError(f"standard output cannot be written: {error}") from None
