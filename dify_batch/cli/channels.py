"""Standard output is for data; progress, summary and log go to standard error.

With --json a success is one JSON document on standard output and nothing on standard error, and anything else one
JSON object on standard error and nothing on standard output.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from dify_batch.errors import DifyBatchError, Exit, StorageError

if TYPE_CHECKING:
    from dify_batch.settings import Settings


class Shown(Protocol):
    """What can show itself to people and to machines: a plan, a status, an export."""

    def as_dict(self) -> dict[str, Any]: ...
    def text(self) -> str: ...


def show(report: Shown, *, machine: bool) -> int:
    write(sys.stdout, (to_json(report.as_dict()) if machine else report.text().rstrip("\n")) + "\n")
    return Exit.OK


def unexpected(error: Exception, settings: Settings | None = None) -> DifyBatchError:
    """An error nobody foresaw: its type and message, and where to find or get the rest."""
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
    from dify_batch.masking import mask, mask_all
    from dify_batch.text import printable

    key = key or os.environ.get("DIFY_API_KEY", "").strip()
    if machine:
        body = {"error": mask_all(error.as_dict(), key)}
        text = to_json(body | ({"summary": dict(summary)} if summary is not None else {}))
    else:
        text = mask(f"error: {error.message}" + (f"\n{error.hint}" if error.hint else ""), key)
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
