"""Journals that earlier versions wrote keep their meaning: they are read, told again to the course, and resumed.

`killed_0_1_0`: written before the course of a row was one function, by a command that was killed (-9) with a run under
way, one in the queue, one lost for ever, one paused, and two failures that had not reached `.retry` yet.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from dify_batch.batch.invocation import run_batch
from dify_batch.engine.course import Rules
from dify_batch.engine.facts import from_record
from dify_batch.engine.resume import replay
from dify_batch.engine.row import Stage, check
from dify_batch.ledger.formats import Paths, from_utc
from dify_batch.ledger.state import Phase, read_state
from dify_batch.settings import Secret, Settings

OLD = Path(__file__).with_name("killed_0_1_0")
DONE = {"good", "partial", "lost", "last", "throttled"}
RUNS = {"slow": "42817e22-2f85-4a59-aab4-ad533204c913", "queued": "run-queued", "never": "run-never"}
USERS = {"queued": "dify-batch-6b06f0140351d0-8", "never": "dify-batch-6b06f0140351d0-4"}
PAUSED = "903759c1-49ec-4815-aa0a-7922d7e84be3"
BEGUN = 1795616789  # seconds since 1970, when the journal was written


def records() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (OLD / "results.jsonl.journal").read_text().splitlines()]


def test_it_is_read_as_it_was_meant() -> None:
    state = read_state(Paths.of(OLD / "results.jsonl"))
    assert {row_id: row.phase for row_id, row in state.rows.items()} == {
        "fails": Phase.FAILED,
        "refused": Phase.FAILED,
        "pauses": Phase.PAUSED,
        "slow": Phase.STARTED,
        "queued": Phase.SENT,
        "never": Phase.SENT,
    }
    assert state.done == len(DONE)
    assert state.bad_lines == []


@pytest.mark.parametrize(
    ("row_id", "stage", "has_run"),
    [
        *((row_id, Stage.SETTLED, None) for row_id in sorted(DONE)),
        ("fails", Stage.SETTLED, None),
        ("refused", Stage.SETTLED, None),
        ("pauses", Stage.SETTLED, None),
        ("slow", Stage.SENT, True),
        ("queued", Stage.SENT, False),
        ("never", Stage.LOST, False),
    ],
)
def test_the_course_tells_it_again(row_id: str, stage: Stage, has_run: bool | None) -> None:
    told = [from_record(record, from_utc(record["at"])) for record in records() if record.get("id") == row_id]
    row = replay(Rules(), [fact for fact in told if fact is not None])
    check(row)
    assert row.stage is stage
    assert has_run is None or (row.ref is not None) is has_run


def dify(request: httpx.Request) -> httpx.Response:
    """A server that has run what was open, and takes no new run."""
    path = request.url.path.removeprefix("/v1")
    if path == "/parameters":
        field = {"variable": "query", "label": "Question", "required": True, "type": "paragraph"}
        return httpx.Response(200, json={"user_input_form": [{"paragraph": field}]})
    if path == "/info":
        return httpx.Response(200, json={"name": "Demo", "mode": "workflow"})
    if path == "/workflows/logs":
        user = request.url.params.get("created_by_end_user_session_id")
        found = [_logged(RUNS[row_id], theirs) for row_id, theirs in USERS.items() if user in (None, theirs)]
        return httpx.Response(200, json={"page": 1, "limit": 20, "total": 2, "has_more": False, "data": found})
    if path.startswith("/workflows/run/"):
        run_id = path.rpartition("/")[2]
        row_id = next((row_id for row_id, run in RUNS.items() if run == run_id), "pauses")
        return httpx.Response(200, json=_detail(run_id, row_id))
    assert request.method == "GET", f"{request.method} {path}: nothing may be sent again"
    return httpx.Response(404, json={"code": "not_found", "message": "not found", "status": 404})


def _detail(run_id: str, row_id: str) -> dict[str, Any]:
    ended = run_id != PAUSED
    return {
        "id": run_id,
        "workflow_id": "w",
        "status": "succeeded" if ended else "paused",
        "inputs": json.dumps({"query": f"question {row_id}"}),
        "outputs": {"answer": row_id} if ended else {},
        "error": None,
        "total_steps": 3,
        "total_tokens": 0,
        "created_at": BEGUN,
        "finished_at": BEGUN + 1 if ended else None,
        "elapsed_time": 1.0,
    }


def _logged(run_id: str, user: str) -> dict[str, Any]:
    run = {"id": run_id, "status": "succeeded", "error": None, "created_at": BEGUN, "finished_at": BEGUN + 1}
    owner = {"id": "u", "type": "service-api", "is_anonymous": False, "session_id": user}
    return {"id": f"log-{run_id}", "workflow_run": run, "created_by_end_user": owner, "created_at": BEGUN}


async def test_it_is_resumed(tmp_path: Path) -> None:
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    output = tmp_path / "results.jsonl"
    settings = Settings(
        input=str(tmp_path / "data.csv"), output=output, api_key=Secret("app-x"), base_url="http://dify.example/v1"
    )
    report = await run_batch(settings, transport=httpx.MockTransport(dify))
    assert (report.summary.done_before, report.summary.success) == (len(DONE), len(RUNS))
    assert (report.summary.paused, report.summary.posts) == (1, 0)
    results = {line["id"]: line for line in map(json.loads, output.read_text(encoding="utf-8-sig").splitlines())}
    assert results.keys() == DONE | RUNS.keys()
    assert {row_id: results[row_id]["outputs"] for row_id in RUNS} == {row_id: {"answer": row_id} for row_id in RUNS}
    assert (tmp_path / "results.jsonl.retry").read_text(encoding="utf-8-sig").split() == ["fails", "refused"]
