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
    from dify_batch.batch.control import Control
    from dify_batch.batch.invocation import BatchReport, run_batch
    from dify_batch.batch.plan import Plan
    from dify_batch.dify.client import DifyClient
    from dify_batch.errors import DifyBatchError, Exit
    from dify_batch.outcomes import (
        Failed,
        Fatal,
        Lost,
        Outcome,
        Paused,
        Rejected,
        Running,
        RunRef,
        RunResult,
        Succeeded,
        Throttled,
        Unreachable,
    )
    from dify_batch.settings import Secret, Settings
    from dify_batch.summary import Stats, Summary

_HOME = {
    "BatchReport": "batch.invocation",
    "Control": "batch.control",
    "run_batch": "batch.invocation",
    "DifyClient": "dify.client",
    "DifyBatchError": "errors",
    "Exit": "errors",
    "Failed": "outcomes",
    "Fatal": "outcomes",
    "Lost": "outcomes",
    "Outcome": "outcomes",
    "Paused": "outcomes",
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
    "BatchReport",
    "Control",
    "DifyBatchError",
    "DifyClient",
    "Exit",
    "Failed",
    "Fatal",
    "Lost",
    "Outcome",
    "Paused",
    "Plan",
    "Rejected",
    "RunRef",
    "RunResult",
    "Running",
    "Secret",
    "Settings",
    "Stats",
    "Succeeded",
    "Summary",
    "Throttled",
    "Unreachable",
    "__version__",
    "run_batch",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"dify_batch.{_HOME[name]}"), name)
    raise AttributeError(f"module 'dify_batch' has no attribute {name!r}")
