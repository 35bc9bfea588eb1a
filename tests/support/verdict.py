"""What a long run came to, by the server's ledger and the files alone: rows executed twice, lost, or given the wrong
answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.harness import places, results

# A run that came to this has given nothing, so that --retry may have run its row again.
_IN_VAIN = frozenset({"failed", "stopped"})


@dataclass(slots=True)
class Verdict:
    """Rows by what went wrong with them; `executed`: how many executions there were."""

    executed: int = 0
    twice: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def well(self) -> bool:
        return not (self.twice or self.lost or self.wrong)

    def __str__(self) -> str:
        told = f"{self.executed} rows executed, {len(self.twice)} twice, {len(self.lost)} lost, {len(self.wrong)} wrong"
        named = [
            f"{name}: {', '.join(rows[:5])}" for name in ("twice", "lost", "wrong") if (rows := getattr(self, name))
        ]
        return "; ".join([told, *named])


def judge(executions: Iterable[Mapping[str, Any]], output: Path, ids: Iterable[str]) -> Verdict:
    """Args:
    executions: the server's ledger, in the order of their begin.
    output: the results; nobody writes them now.
    """
    by_row: dict[str, list[Mapping[str, Any]]] = {}
    for execution in executions:
        by_row.setdefault(execution["row"], []).append(execution)
    verdict = Verdict(executed=sum(map(len, by_row.values())))
    for row_id, runs in by_row.items():
        if any(run["status"] not in _IN_VAIN for run in runs[:-1]):
            verdict.twice.append(row_id)
    found = places(output)
    verdict.lost = [row_id for row_id in ids if row_id not in found.done | found.retry | found.paused | found.running]
    for line in results(output):
        own = [run for run in by_row.get(line["id"], ()) if run["run_id"] == line["workflow_run_id"]]
        told = own[0]["outputs"] if own else None
        if told is None or json.loads(told) != line["outputs"]:
            verdict.wrong.append(line["id"])
    return verdict
