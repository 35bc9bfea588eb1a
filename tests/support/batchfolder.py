"""A folder with a table, and batches over it against a simulator in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dify_batch.batch.invocation import BatchReport, run_batch
from dify_batch.settings import Settings
from dify_batch.simulator import Config, Simulator
from tests.support.harness import results, write_csv

QUICK = Config(latency=0.02, workers=None, linger_after_finish=0.1, snapshot_delay=0.01)
"""A server that keeps nobody waiting."""


class BatchFolder:
    """`data.csv` with r1 to r10 (id, query), and `results.jsonl` beside it."""

    def __init__(self, path: Path, server: Simulator, rows: int = 10) -> None:
        self.path = path
        self.server = server
        self.data = path / "data.csv"
        self.output = path / "results.jsonl"
        self.retry = path / "results.jsonl.retry"
        self.superseded = path / "results.jsonl.superseded"
        write_csv(self.data, rows)

    def settings(self, **more: Any) -> Settings:
        given: dict[str, Any] = {
            "input": str(self.data),
            "output": self.output,
            "api_key": "app-echo",
            "base_url": self.server.base_url,
            "settle": 0.3,
            "initial_retry_delay": 0.05,
        }
        return Settings(**(given | more))

    async def run(self, **more: Any) -> BatchReport:
        """A batch; its summary adds up."""
        report = await run_batch(self.settings(**more))
        summary = report.summary
        assert sum(getattr(summary, name) for name in summary.STATES) == summary.rows
        if report.exit_status == 0 and not more.keys() & {"limit", "sample", "ids", "dry_run", "retry"}:
            assert summary.untouched == 0, "exit 0 means that nothing selected is untouched"
        return report

    def change(self, row_id: str, query: str) -> None:
        """Another question for a row."""
        lines = self.data.read_text(encoding="utf-8").splitlines()
        changed = [f"{row_id},{query}" if line.startswith(f"{row_id},") else line for line in lines]
        self.data.write_text("\n".join(changed) + "\n", encoding="utf-8")

    def executions(self) -> dict[str, int]:
        """How often the server ran each row."""
        executions: dict[str, int] = self.server.state(runs=False)["executions"]
        return executions

    def answers(self) -> dict[str, str]:
        """The question that each result is an answer to."""
        return {line["id"]: line["inputs"]["query"] for line in results(self.output)}

    def journal(self) -> list[dict[str, Any]]:
        path = self.path / "results.jsonl.journal"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]


async def soon(condition: Callable[[], bool], what: str) -> None:
    """Polls until something is so, for at most 20 s."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)
    assert condition(), what


def codes(report: BatchReport) -> list[str]:
    """The codes of a report's warnings."""
    return [notice.code for notice in report.summary.warnings]
