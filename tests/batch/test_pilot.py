"""--sample: a pilot on the same output, and what it tells of the rest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from dify_batch.cli.progress_text import summary_text
from dify_batch.errors import UsageError
from dify_batch.ledger.drawn import drawn
from dify_batch.ledger.formats import Paths
from dify_batch.simulator import Simulator
from tests.support.batchfolder import QUICK, BatchFolder
from tests.support.harness import result_ids, results
from tests.support.journals import AT, Record, batch, put


@pytest.fixture
def server() -> Iterator[Simulator]:
    with Simulator(QUICK) as simulator:
        yield simulator


async def test_the_rest_is_estimated_after_the_pilot_and_by_a_dry_run(tmp_path: Path, server: Simulator) -> None:
    folder = BatchFolder(tmp_path, server, rows=100)
    pilot = await folder.run(sample=20, api_key="app-demo")
    rest = pilot.summary.rest
    assert rest is not None
    assert (pilot.summary.success, pilot.summary.untouched, rest.rows, rest.by) == (20, 80, 80, 20)
    assert rest.tokens is not None
    assert "80 rows to come, by 20 rows: about " in summary_text(pilot.summary, folder.output, [], ())
    assert json.dumps(pilot.summary.as_dict()["rest"])
    assert "rest" not in [record for record in folder.journal() if record["event"] == "end"][-1]["summary"]
    plan = (await folder.run(dry_run=True, api_key="app-demo")).plan
    assert plan is not None
    assert plan.estimate == rest
    assert (plan.tokens, plan.seconds) == (rest.as_dict()["tokens"]["likely"], rest.as_dict()["seconds"]["likely"])
    assert rest.text() in plan.text()
    drawn_first = set(result_ids(folder.output))
    last = await folder.run(api_key="app-demo")
    assert last.summary.rest is None
    used = sum(line["total_tokens"] for line in results(folder.output) if line["id"] not in drawn_first)
    assert rest.tokens.low <= used <= rest.tokens.high


async def test_the_same_rows_again_and_more_of_them(tmp_path: Path, server: Simulator) -> None:
    folder = BatchFolder(tmp_path, server, rows=50)
    await folder.run(sample=5)
    first = set(result_ids(folder.output))
    assert (await folder.run(sample=5)).summary.posts == 0
    await folder.run(sample=12)
    assert first < set(result_ids(folder.output))
    assert len(result_ids(folder.output)) == 12


async def test_a_sample_of_more_rows_than_there_are(tmp_path: Path, server: Simulator) -> None:
    folder = BatchFolder(tmp_path, server, rows=5)
    for dry in (True, False):
        with pytest.raises(UsageError, match="has 5 rows to draw from"):
            await folder.run(sample=6, dry_run=dry)
    assert not folder.output.exists()


async def test_a_few_rows_are_said_to_tell_nothing(tmp_path: Path, server: Simulator) -> None:
    folder = BatchFolder(tmp_path, server, rows=100)
    report = await folder.run(limit=2, api_key="app-demo")
    assert report.summary.rest is not None
    assert "too wide to mean anything; run some more first, such as --sample 30" in report.summary.rest.text()


async def test_how_many_go_at_a_time_is_known_after_auto_only(tmp_path: Path, server: Simulator) -> None:
    folder = BatchFolder(tmp_path, server, rows=40)
    report = await folder.run(sample=12, concurrency="auto")
    assert report.summary.rest is not None
    assert report.summary.rest.seconds is not None
    plan = (await folder.run(dry_run=True, concurrency="auto")).plan
    assert plan is not None
    assert plan.seconds is None


def test_runs_that_failed_count_for_their_row(tmp_path: Path) -> None:
    line = (
        b'{"id": "%b", "status": "success", "inputs": {}, "outputs": {}, "workflow_run_id": "r", "executed_at": "", '
        b'"retry_count": 0, "elapsed_time": 2.0, "total_tokens": 10, "total_steps": 1, "task_id": null, '
        b'"total_price": "0.5", "currency": "USD", "workflow_id": "w", "trace_id": null, "queue_time": 0.5}\n'
    )

    def spent(row_id: str) -> Record:
        return {
            "event": "spent",
            "id": row_id,
            "run": "x",
            "total_tokens": 7,
            "total_price": "0.1",
            "currency": "USD",
            "at": AT,
        }

    output = put(tmp_path, [batch(), spent("a"), spent("a"), spent("c")], [line % b"a", line % b"b"])
    found = drawn([Paths.of(output)])
    assert [(one.tokens, one.seconds) for one in found] == [(24, 2.5), (10, 2.5), (7, None)]
    assert found[0].prices == {"USD": Decimal("0.7")}
