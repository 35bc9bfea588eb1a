"""X-Trace-Id: with each request, in the journal and in the result."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dify_batch.ledger.formats import Paths, result_version
from dify_batch.ledger.spent import spent
from dify_batch.simulator import Simulator
from tests.support.batchfolder import QUICK, BatchFolder
from tests.support.harness import results


@pytest.fixture
def server() -> Iterator[Simulator]:
    with Simulator(QUICK) as simulator:
        yield simulator


async def test_each_attempt_has_its_own_and_the_result_that_of_its_run(tmp_path: Path, server: Simulator) -> None:
    server.faults(rows={"r2": ["failed"], "r3": ["throttle_429"]})
    folder = BatchFolder(tmp_path, server, rows=3)
    await folder.run(retry_policy="all", mode="streaming")
    sent = [record for record in folder.journal() if record["event"] == "sent"]
    name = next(record["batch"] for record in folder.journal() if record["event"] == "batch")
    assert [record["trace"] for record in sent if record["id"] == "r2"] == [f"{name}-r2-1", f"{name}-r2-2"]
    assert len({record["trace"] for record in sent}) == len(sent) == 5
    assert {line["id"]: line["trace_id"] for line in results(folder.output)} == {
        "r1": f"{name}-r1-1",
        "r2": f"{name}-r2-2",
        "r3": f"{name}-r3-2",
    }


async def test_a_run_of_a_killed_batch_keeps_the_trace_that_it_was_sent_with(tmp_path: Path, server: Simulator) -> None:
    folder = BatchFolder(tmp_path, server, rows=2)
    await folder.run()
    kept = {line["id"]: line["trace_id"] for line in results(folder.output)}
    folder.output.unlink()  # the results are lost, the journal is not: they are fetched again
    await folder.run()
    assert {line["id"]: line["trace_id"] for line in results(folder.output)} == kept
    journal = Paths.of(folder.output).journal
    folder.output.unlink()
    journal.write_text(re.sub(r',"trace":"[^"]*"', "", journal.read_text()))  # as an older version wrote it
    await folder.run()
    assert {line["id"]: line["trace_id"] for line in results(folder.output)} == dict.fromkeys(kept)


async def test_figures_at_the_end_of_a_line_are_still_read_at_a_glance(tmp_path: Path, server: Simulator) -> None:
    folder = BatchFolder(tmp_path, server, rows=3)
    await folder.run(api_key="app-demo")
    lines = folder.output.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
    tokens = sum(json.loads(line)["total_tokens"] for line in lines)
    assert spent(Paths.of(folder.output)).tokens == tokens > 0
    assert {result_version(line) for line in lines} == {json.loads(lines[0])["workflow_id"].encode()}
