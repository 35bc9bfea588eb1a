"""The batch for scripts without an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dify_batch.batch.invocation import BatchReport, run_batch
from dify_batch.errors import UsageError
from dify_batch.outcomes import SettledRow
from dify_batch.settings import Settings


def run_batch_sync(
    settings: Settings,
    *,
    rows: Iterable[Mapping[str, Any]] | None = None,
    on_row: Callable[[SettledRow], None] | None = None,
) -> BatchReport:
    """`run_batch` for scripts: blocks until the batch has ended. Arguments and errors as there.

    Raises:
        UsageError: an event loop runs here already, as in a notebook: use `await run_batch(...)`.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run_batch(settings, rows=rows, on_row=on_row))
    raise UsageError("an event loop runs here already", hint="use: await run_batch(settings)")
