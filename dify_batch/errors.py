"""Every error that ends the command: its code, its cure, its exit status.

    DifyBatchError
    ├── UsageError            2   the call or a setting is wrong; nothing was sent
    │   └── InvalidInput      2   the CSV does not pass its checks (invalid_csv, invalid_rows, other_ids)
    ├── AuthError             4   no key, or the server refuses it
    ├── ServerError           1   the server answered, and not as hoped (server_5xx, server_4xx_other)
    │   └── AppError          1   the app behind the key cannot run (not published, no workflow, ...)
    ├── ConnectionFailed      1   no answer was to be had
    ├── RateLimited           7   a plan quota is used up, or throttling outlasted --max-outage
    ├── BatchStopped          1   stopped on purpose before the end (--max-failures, --max-outage)
    ├── StorageError          1   a file of the batch cannot be read or written as it must
    ├── InputChanged         75   the input is not any more what was checked; what was sent is
    └── OutputLocked         75   another process holds the output

The codes are those of difyctl where it has one, so that a script can branch on both alike. This file is the only
place that names an exit status.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any


class Exit(IntEnum):
    """Exit statuses of the command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    AUTH = 4
    VERSION = 6  # the server, or a file of settings, is too old or too new
    RATE_LIMITED = 7
    UNFINISHED = 75  # EX_TEMPFAIL of sysexits.h: cron and systemd read it as "try again later"
    SIGINT = 130  # 128 + signal number, as a shell reports it
    SIGTERM = 143


ACCOUNT_CODES: Mapping[str, Exit] = {
    # fix the call
    "illegal_argument": Exit.USAGE,
    "workspace_required": Exit.USAGE,
    # authenticate
    "token_expired": Exit.AUTH,
    # another version
    "version_skew": Exit.VERSION,
    "unsupported_endpoint": Exit.VERSION,
    "config_schema_unsupported": Exit.VERSION,
    # look, then decide
    "config_broken": Exit.FAILED,
    "unsafe_address": Exit.FAILED,
    "run_failed": Exit.FAILED,
    "run_stopped": Exit.FAILED,
    "run_unknown": Exit.FAILED,
}
"""Codes that the commands of the account surface have beside those of all."""

EXIT_OF_CODE: Mapping[str, Exit] = {
    **ACCOUNT_CODES,
    # fix the call
    "usage_invalid_flag": Exit.USAGE,
    "usage_missing_arg": Exit.USAGE,
    "config_invalid_value": Exit.USAGE,
    "invalid_csv": Exit.USAGE,
    "invalid_rows": Exit.USAGE,
    "other_ids": Exit.USAGE,
    "other_app": Exit.USAGE,
    # authenticate
    "not_logged_in": Exit.AUTH,
    "auth_expired": Exit.AUTH,
    "access_denied": Exit.AUTH,
    # wait
    "rate_limited": Exit.RATE_LIMITED,
    # look, then decide
    "network_connection": Exit.FAILED,
    "server_5xx": Exit.FAILED,
    "server_4xx_other": Exit.FAILED,
    "rows_failed": Exit.FAILED,
    "files_failed": Exit.FAILED,
    "batch_stopped": Exit.FAILED,
    "storage_failed": Exit.FAILED,
    "unknown": Exit.FAILED,
    # run again
    "output_locked": Exit.UNFINISHED,
    "not_finished": Exit.UNFINISHED,
    "budget_reached": Exit.UNFINISHED,
    "input_changed": Exit.UNFINISHED,
    # signals
    "interrupted": Exit.SIGINT,
    "terminated": Exit.SIGTERM,
}
"""The table from code to exit status."""


class DifyBatchError(Exception):
    """Root of all errors of this package.

    Args:
        message: what happened and where (file, line, column, row id).
        hint: what to type next.
        code: a key of EXIT_OF_CODE; scripts branch on it.
        details: facts for machines, JSON-ready (http_status, method, url, server, problems, ...).
    """

    code: str = "unknown"

    def __init__(self, message: str, *, hint: str | None = None, code: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if code is not None:
            self.code = code
        self.details: dict[str, Any] = {key: value for key, value in details.items() if value is not None}

    @property
    def exit_status(self) -> Exit:
        return EXIT_OF_CODE.get(self.code, Exit.FAILED)

    def as_dict(self) -> dict[str, Any]:
        """The value of "error" in machine output: {"code", "message", "hint"?, ...details}."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.hint is not None:
            error["hint"] = self.hint
        return error | self.details


class UsageError(DifyBatchError):
    """The call or a setting is wrong."""

    code = "config_invalid_value"


class InvalidInput(UsageError):
    """The CSV fails its checks; `details["problems"]` lists them, `details["counts"]` counts them by kind."""

    code = "invalid_csv"


class InputChanged(DifyBatchError):
    """The input was changed between its check and the sending. Rows may have been sent, each as it was checked."""

    code = "input_changed"


class AuthError(DifyBatchError):
    """No key, or one that the server refuses."""

    code = "auth_expired"


class ServerError(DifyBatchError):
    """The server answered with an error that is no row's fault."""

    code = "server_5xx"


class AppError(ServerError):
    """The app behind the key cannot run a batch as it is."""

    code = "server_4xx_other"


class ConnectionFailed(DifyBatchError):
    """The server cannot be reached."""

    code = "network_connection"


class RateLimited(DifyBatchError):
    """A quota is used up, or throttling did not end within --max-outage."""

    code = "rate_limited"


class BatchStopped(DifyBatchError):
    """The batch stopped before its end for a reason of its own."""

    code = "batch_stopped"


class StorageError(DifyBatchError):
    """A file of the batch cannot be read or written as it must."""

    code = "storage_failed"


class OutputLocked(DifyBatchError):
    """Another process holds the output."""

    code = "output_locked"
