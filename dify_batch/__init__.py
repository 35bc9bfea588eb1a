"""Send each row of a CSV to a Dify workflow: nothing lost, nothing run twice.

    import asyncio
    from pathlib import Path
    from dify_batch import Secret, Settings, run_batch

    settings = Settings(input="data.csv", output=Path("results.jsonl"), api_key=Secret("app-..."))
    report = asyncio.run(run_batch(settings))
    print(report.summary.success, report.error)

The names below are the public API; it is what the command line uses. They are imported when first used, so that
`dify-batch --help` need not wait for an HTTP client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dify_batch._version import __version__

if TYPE_CHECKING:
    from dify_batch.batch.blocking import run_batch_sync
    from dify_batch.batch.control import Control
    from dify_batch.batch.invocation import BatchReport, run_batch
    from dify_batch.batch.plan import Plan
    from dify_batch.dify.answers import Detail, LogEntry, LogPage
    from dify_batch.dify.client import DifyClient
    from dify_batch.dify.kinds.client import KindClient
    from dify_batch.dify.watching import RunEvent
    from dify_batch.errors import (
        AppError,
        AuthError,
        BatchStopped,
        ConnectionFailed,
        DifyBatchError,
        Exit,
        InputChanged,
        InvalidInput,
        OutputLocked,
        RateLimited,
        ServerError,
        StorageError,
        UsageError,
    )
    from dify_batch.outcomes import (
        Failed,
        Fatal,
        Lost,
        Outcome,
        Paused,
        PausedForm,
        Rejected,
        Running,
        RunRef,
        RunResult,
        SettledRow,
        Succeeded,
        Throttled,
        Unreachable,
    )
    from dify_batch.scale.running import run_workers
    from dify_batch.settings import Secret, Settings
    from dify_batch.summary import Stats, Summary

_HOME = {
    "BatchReport": "batch.invocation",
    "Control": "batch.control",
    "run_batch": "batch.invocation",
    "run_batch_sync": "batch.blocking",
    "run_workers": "scale.running",
    "DifyClient": "dify.client",
    "KindClient": "dify.kinds.client",
    "Detail": "dify.answers",
    "LogEntry": "dify.answers",
    "LogPage": "dify.answers",
    "RunEvent": "dify.watching",
    "AppError": "errors",
    "AuthError": "errors",
    "BatchStopped": "errors",
    "ConnectionFailed": "errors",
    "DifyBatchError": "errors",
    "Exit": "errors",
    "InputChanged": "errors",
    "InvalidInput": "errors",
    "OutputLocked": "errors",
    "RateLimited": "errors",
    "ServerError": "errors",
    "StorageError": "errors",
    "UsageError": "errors",
    "Failed": "outcomes",
    "Fatal": "outcomes",
    "Lost": "outcomes",
    "Outcome": "outcomes",
    "Paused": "outcomes",
    "PausedForm": "outcomes",
    "SettledRow": "outcomes",
    "Rejected": "outcomes",
    "Running": "outcomes",
    "RunRef": "outcomes",
    "RunResult": "outcomes",
    "Succeeded": "outcomes",
    "Throttled": "outcomes",
    "Unreachable": "outcomes",
    "Plan": "batch.plan",
    "Secret": "settings",
    "Settings": "settings",
    "Stats": "summary",
    "Summary": "summary",
}

__all__ = [
    "AppError",
    "AuthError",
    "BatchReport",
    "BatchStopped",
    "ConnectionFailed",
    "Control",
    "Detail",
    "DifyBatchError",
    "DifyClient",
    "Exit",
    "Failed",
    "Fatal",
    "InputChanged",
    "InvalidInput",
    "KindClient",
    "LogEntry",
    "LogPage",
    "Lost",
    "Outcome",
    "OutputLocked",
    "Paused",
    "PausedForm",
    "Plan",
    "RateLimited",
    "Rejected",
    "RunEvent",
    "RunRef",
    "RunResult",
    "Running",
    "Secret",
    "ServerError",
    "Settings",
    "SettledRow",
    "Stats",
    "StorageError",
    "Succeeded",
    "Summary",
    "Throttled",
    "Unreachable",
    "UsageError",
    "__version__",
    "run_batch",
    "run_batch_sync",
    "run_workers",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"dify_batch.{_HOME[name]}"), name)
    raise AttributeError(f"module 'dify_batch' has no attribute {name!r}")
