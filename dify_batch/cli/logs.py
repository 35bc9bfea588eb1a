"""The log: where lines of the "dify_batch" logger go, how they look, and what they must never show.

    text   2026-11-22T01:02:03Z WARNING [row c-12] message
    json   {"time": ..., "level": ..., "row": ..., "message": ...}

A line belongs to a row by `logger.warning("...", extra={"row": row_id})`. Every line passes `mask` after it
has been put together, traceback included, so that no way of writing a message gets around it. Records of
other libraries, and what Python itself would print as a traceback, go to the log file or nowhere.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from types import TracebackType

from dify_batch.errors import UsageError
from dify_batch.ledger.formats import utc
from dify_batch.masking import mask
from dify_batch.settings import Settings
from dify_batch.text import pattern_of, printable

LOGGER = "dify_batch"
LONGEST = 64 << 10  # characters of a message or a traceback; what is longer was no text for a log


class Formatter(logging.Formatter):
    """One line a record (a traceback adds its own), as text or as JSON, in UTC, masked."""

    def __init__(self, log_format: str, key: str = "", *, tracebacks: bool = True) -> None:
        super().__init__()
        self._json = log_format == "json"
        self._key = key
        self._tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        row = getattr(record, "row", None)
        message = record.getMessage()[:LONGEST]
        trace = ""
        if self._tracebacks and record.exc_info and record.exc_info[0] is not None:
            trace = self.formatException(record.exc_info)[-LONGEST:]
        moment = utc(record.created)
        if self._json:
            entry = {"time": moment, "level": record.levelname}
            if row is not None:
                entry["row"] = mask(str(row), self._key)
            entry["message"] = mask(message, self._key)
            if trace:
                entry["traceback"] = mask(trace, self._key)
            return json.dumps(entry, ensure_ascii=False)
        where = f"[row {row}] " if row is not None else ""
        # One record, one line: a line break out of a server's message would look like a record of its own.
        line = printable(f"{moment} {record.levelname} {where}{message}")
        return mask(line + ("\n" + trace if trace else ""), self._key)


class StderrHandler(logging.Handler):
    """Writes lines by `write`: above the progress bar where there is one, else plainly to standard error."""

    def __init__(self, write: Callable[[str], None] | None = None) -> None:
        super().__init__()
        self.write = write

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
            if self.write is not None:
                self.write(line)
            elif sys.stderr is not None:
                sys.stderr.write(line + "\n")
                sys.stderr.flush()
        except (OSError, ValueError):
            pass  # a closed terminal must not end the batch
        except Exception:  # noqa: BLE001 - the contract of logging: a bad record is reported, not raised
            self.handleError(record)


class OnceAKind(logging.Filter):
    """Lets a warning about a row pass once, and then no other that differs only in ids and numbers: ten thousand rows
    that fail alike are one line, and a count in the progress display."""

    KINDS = 1000  # kinds that are remembered; what comes after them is not shown

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        row = getattr(record, "row", None)
        if row is None or record.levelno != logging.WARNING:
            return True
        kind = pattern_of(record.getMessage(), str(row))
        new = kind not in self._seen and len(self._seen) < self.KINDS
        self._seen.add(kind) if new else None
        return new


class Logs:
    """The handlers of one invocation; a context manager that takes them away again.

    Args:
        settings: quiet, verbose, json, log_file, log_format and the key to hide.

    Raises:
        UsageError: the log file cannot be opened.
    """

    def __init__(self, settings: Settings) -> None:
        key = settings.api_key.reveal()
        self.console: StderrHandler | None = None
        self.file: LogFile | None = None
        if not settings.json:  # with --json standard error holds one object or nothing
            self.console = StderrHandler()
            self.console.setLevel(console_level(settings))
            if not settings.verbose:
                self.console.addFilter(OnceAKind())
            self.console.setFormatter(Formatter(settings.log_format, key, tracebacks=False))
        if settings.log_file is not None:
            self.file = _open(settings)
            self.file.setLevel(logging.DEBUG if settings.verbose else logging.INFO)
            self.file.setFormatter(Formatter(settings.log_format, key))

    def __enter__(self) -> Logs:
        ours, root = logging.getLogger(LOGGER), logging.getLogger()
        self._before = (ours.level, ours.propagate, sys.unraisablehook)
        self._ours = [handler for handler in (self.console, self.file) if handler is not None]
        for handler in self._ours:
            ours.addHandler(handler)
        ours.setLevel(min((handler.level for handler in self._ours), default=logging.CRITICAL))
        ours.propagate = False  # or a root handler of the calling program shows all again, unredacted
        # Without any root handler Python prints other libraries' warnings and tracebacks to standard error.
        self._root = self.file or logging.NullHandler()
        root.addHandler(self._root)
        sys.unraisablehook = lambda hook: self.trace("in a destructor", hook.exc_value)
        return self

    def __exit__(self, *_: object) -> None:
        ours = logging.getLogger(LOGGER)
        logging.getLogger().removeHandler(self._root)
        for handler in self._ours:
            ours.removeHandler(handler)
            handler.close()
        level, ours.propagate, sys.unraisablehook = self._before
        ours.setLevel(level)

    @property
    def lost(self) -> str | None:
        """Why lines of the log file could not be written; None while all could."""
        return None if self.file is None else self.file.lost

    def trace(self, what: str, error: BaseException | None) -> None:
        """An exception with its traceback, into the log file only."""
        if self.file is None or error is None:
            return
        info: tuple[type[BaseException], BaseException, TracebackType | None]
        info = (type(error), error, error.__traceback__)
        self.file.handle(logging.LogRecord(LOGGER, logging.ERROR, "", 0, what, None, info))


def console_level(settings: Settings) -> int:
    """The least level shown on standard error: errors with -q, warnings, -v information, -vv everything."""
    if settings.quiet:
        return logging.ERROR
    return {0: logging.WARNING, 1: logging.INFO}.get(settings.verbose, logging.DEBUG)


class LogFile(logging.FileHandler):
    """A log file that may fill its disk: what could not be written is lost, and nothing else comes of it.

    `lost`: why a line could not be written, None while all could.
    """

    lost: str | None = None

    def handleError(self, record: logging.LogRecord) -> None:
        self.note(sys.exc_info()[1])

    def note(self, error: BaseException | None) -> None:
        self.lost = self.lost or (error.strerror if isinstance(error, OSError) else None) or type(error).__name__

    def close(self) -> None:
        try:
            super().close()
        except OSError as error:  # what was left in the buffer
            self.note(error)


def _open(settings: Settings) -> LogFile:
    path = settings.log_file
    try:
        return LogFile(str(path), encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UsageError(
            f'--log-file: "{path}" cannot be opened: {error.strerror}',
            hint="give a file in a folder that exists and that you may write to",
        ) from None
