"""Which node a run failed at: from the stream into journal, status, report and exports."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dify_batch.batch.invocation import run_batch
from dify_batch.outcomes import FailedNode, SettledRow
from dify_batch.reports.export import export
from dify_batch.reports.html.collect import collect
from dify_batch.reports.rowstory import row_story
from dify_batch.reports.status import status_report
from dify_batch.simulator import Simulator
from tests.support.batchfolder import QUICK, BatchFolder
from tests.support.journals import batch, failed, put
from tests.support.result_tables import read_csv


@pytest.fixture
def server() -> Iterator[Simulator]:
    with Simulator(QUICK) as simulator:
        yield simulator


async def test_the_node_stands_in_journal_status_report_and_exports(tmp_path: Path, server: Simulator) -> None:
    server.faults(rows={"r2": ["failed"]})
    folder = BatchFolder(tmp_path, server, rows=3)
    settled: list[SettledRow] = []
    await run_batch(folder.settings(mode="streaming", api_key="app-demo"), on_row=settled.append)
    (record,) = [record for record in folder.journal() if record["event"] == "failed"]
    node = FailedNode.of(record["node"])
    assert node is not None
    assert (node.title, node.type) == ("LLM", "llm")
    assert node.error
    assert [row.node for row in settled if row.id == "r2"] == [node]

    (group,) = status_report(folder.output).failures
    assert group.nodes == ("LLM (llm)",)
    assert "at the node LLM (llm)" in status_report(folder.output).text()
    assert f"node LLM (llm): {node.error}" in row_story(folder.output, "r2").text()
    assert collect([folder.output]).groups[0].nodes == group.nodes

    export(folder.output, tmp_path / "bad.csv", failed=True)
    assert [row["_node"] for row in read_csv(tmp_path / "bad.csv")] == ["LLM (llm)"]
    export(folder.output, tmp_path / "all.csv")
    assert [row["error"] for row in read_csv(tmp_path / "all.csv")][-1].endswith("(node LLM (llm))")

    again = await folder.run(api_key="app-demo", input=str(tmp_path / "bad.csv"), retry=True)
    assert again.summary.success == 1


def test_a_journal_without_nodes_or_with_odd_ones_is_read(tmp_path: Path) -> None:
    odd = failed("b", "m") | {"node": {"title": 7}}
    output = put(tmp_path, [batch(), failed("a", "m"), odd, failed("c", "m") | {"node": "LLM"}])
    (group,) = status_report(output).failures
    assert (group.count, group.nodes) == (3, ())


async def test_a_table_of_failed_rows_of_an_older_version_is_still_known(tmp_path: Path, server: Simulator) -> None:
    folder = BatchFolder(tmp_path, server, rows=3)
    server.faults(rows={"r2": ["failed"]})
    await folder.run()
    old = "id,query,_status,_code,_reason,_run_id,_time\r\nr2,question r2,failed,run_failed,m,,\r\n"
    (tmp_path / "bad.csv").write_text("\ufeff" + old, encoding="utf-8", newline="")
    report = await folder.run(input=str(tmp_path / "bad.csv"), retry=True)
    assert report.summary.success == 1
    assert json.loads(folder.output.read_text(encoding="utf-8-sig").splitlines()[-1])["id"] == "r2"
