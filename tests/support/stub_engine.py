"""The command with an engine that does what the first argument says: the ways in which a batch can end.

python stub_engine.py KIND [arguments of dify-batch]
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import types
from dataclasses import dataclass
from typing import Any

from dify_batch.errors import DifyBatchError, Exit, OutputLocked
from dify_batch.settings import Settings
from dify_batch.summary import Stats, Summary


@dataclass
class Plan:
    key: str

    def as_dict(self) -> dict[str, Any]:
        return {"rows": 2, "key": self.key}

    def text(self) -> str:
        return "2 rows to run"


@dataclass
class Report:
    summary: Summary
    error: DifyBatchError | None = None
    plan: Plan | None = None
    next_steps: tuple[str, ...] = ()
    parts: int = 0

    @property
    def exit_status(self) -> Exit:
        return Exit.OK if self.error is None else self.error.exit_status


class Control:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.drained, self.stopped = asyncio.Event(), asyncio.Event()

    def drain(self, name: str) -> None:
        self.calls.append(name)
        self.drained.set()

    def stop(self) -> None:
        self.calls.append("stop")
        self.stopped.set()

    def abandon(self) -> None:
        self.calls.append("abandon")


async def forget_a_task() -> None:
    """Leaves behind a task whose exception nobody takes, which asyncio complains of."""

    async def fails() -> None:
        raise ValueError("nobody takes this")

    task = asyncio.ensure_future(fails())
    await asyncio.wait([task])


async def run_batch(settings: Settings, *, control: Control, stats: Stats, **_: object) -> Report:
    key = settings.api_key.reveal()
    if KIND == "ok":
        logging.getLogger("dify_batch").warning("careful with %s", key)
        return Report(Summary(rows=2, success=2, posts=2))
    if KIND == "failed":
        stats.failures["run_failed", f"node says {key}"] += 1
        error = DifyBatchError("1 row failed", code="rows_failed", hint="type it again", http_status=200)
        return Report(Summary(rows=2, success=1, failed=1), error, None, ("dify-batch --retry",))
    if KIND == "plan":
        return Report(Summary(rows=2), None, Plan(os.environ["DIFY_API_KEY"]))
    if KIND == "locked":
        raise OutputLocked("results.jsonl is in use.")
    if KIND == "crash":
        raise RuntimeError(f"oh {key}\x1b[31m")
    if KIND == "forgotten":
        await forget_a_task()
        return Report(Summary(rows=1, success=1))
    if KIND == "interrupt":
        raise KeyboardInterrupt
    if KIND == "signals":
        return await until_told(settings, control)
    raise AssertionError(KIND)


async def until_told(settings: Settings, control: Control) -> Report:
    """Waits for a drain, and with --retry for a stop; the error's message is what was called."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await control.drained.wait()
    sys.stdout.write("drained\n")
    sys.stdout.flush()
    if settings.retry:
        await control.stopped.wait()
    code = "interrupted" if control.calls[0] == "SIGINT" else "terminated"
    return Report(Summary(rows=1, running=1), DifyBatchError(",".join(control.calls), code=code))


class Shown:
    """A report of `status` or `export`: the paths that it was given."""

    def __init__(self, *paths: object, **_: object) -> None:
        self._paths = [str(path) for path in paths]

    def as_dict(self) -> dict[str, Any]:
        return {"paths": self._paths}

    def text(self) -> str:
        return " ".join(self._paths) + "\n"


def stand_in(module: str, **content: object) -> None:
    stub = types.ModuleType(f"dify_batch.{module}")
    stub.__dict__.update(content)
    sys.modules[stub.__name__] = stub


if __name__ == "__main__":
    KIND = sys.argv.pop(1)
    stand_in("batch.invocation", run_batch=run_batch)
    stand_in("batch.control", Control=Control)
    stand_in("reports.status", status_report=Shown)
    stand_in("reports.export", export=Shown)
    from dify_batch.cli.main import main

    sys.exit(main())
