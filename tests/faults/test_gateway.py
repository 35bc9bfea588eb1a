"""What something in front of Dify says, in the middle of a batch and at its first question."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dify_batch.errors import DifyBatchError
from dify_batch.simulator import Config, Simulator
from tests.support.batchfolder import BatchFolder
from tests.support.harness import executed_more_than_once, results


@pytest.fixture
def server() -> Iterator[Simulator]:
    with Simulator(Config(latency=0.05)) as simulator:
        yield simulator


def batch(tmp_path: Path, server: Simulator, rows: int = 30) -> BatchFolder:
    return BatchFolder(tmp_path, server, rows)


SOON: dict[str, Any] = {"max_retry_delay": 0.3, "max_outage": 30}


@pytest.mark.parametrize("mode", ["streaming", "blocking"])
@pytest.mark.parametrize(
    "fault",
    [
        "gateway_404_text",
        "gateway_404_backend",
        "gateway_404_json",
        "gateway_405",
        "gateway_401",
        "gateway_302",
        "gateway_400",
        "gateway_402",
        "gateway_407",
    ],
)
async def test_a_second_of_a_gateways_word_costs_no_row(
    tmp_path: Path, server: Simulator, fault: str, mode: str
) -> None:
    server.faults(server={"name": fault, "after": 12, "lasts": 1})
    folder = batch(tmp_path, server)
    report = await folder.run(mode=mode, max_retries=0, **SOON)
    assert report.error is None
    assert report.summary.success == 30
    assert executed_more_than_once(server) == {}


@pytest.mark.parametrize("fault", ["gateway_404_text", "gateway_302", "gateway_401", "gateway_200_page"])
async def test_look_ups_that_meet_a_gateway_give_no_row_up(tmp_path: Path, server: Simulator, fault: str) -> None:
    server.faults(
        rows={"r3": ["cut_after_start"], "r4": ["cut_after_accept"]},
        server={"name": fault, "on": ["GET"], "after": 2, "lasts": 1},
    )
    folder = batch(tmp_path, server, 6)
    report = await folder.run(settle=0.3, **SOON)
    assert report.error is None
    assert report.summary.success == 6
    assert executed_more_than_once(server) == {}


@pytest.mark.parametrize("fault", ["gateway_403_firewall", "gateway_413"])
async def test_a_firewalls_word_about_one_rows_text_is_that_rows_refusal(
    tmp_path: Path, server: Simulator, fault: str
) -> None:
    server.faults(rows={"r3": [fault]})
    report = await batch(tmp_path, server, 10).run(concurrency=1, **SOON)
    assert isinstance(report.error, DifyBatchError)
    assert report.error.code == "rows_failed"
    assert (report.summary.success, report.summary.failed, report.summary.untouched) == (9, 1, 0)


@pytest.mark.parametrize(
    ("fault", "cure"),
    [
        ("gateway_400_https", "https://"),
        ("gateway_402", "payment"),
        ("gateway_407", "user:password@host"),
        ("gateway_426", "https"),
        ("gateway_404_text", "/v1"),
        ("gateway_401", "login"),
        ("gateway_302", "redirects are not followed"),
    ],
)
async def test_at_the_first_question_it_is_told_at_once_with_its_cure(
    tmp_path: Path, server: Simulator, fault: str, cure: str
) -> None:
    server.faults(server={"name": fault})
    with pytest.raises(DifyBatchError) as failure:
        await batch(tmp_path, server, 3).run()
    assert failure.value.exit_status in (1, 2)
    assert cure in (failure.value.hint or "")
    # Without the first question the first run tells it.
    report = await batch(tmp_path, server, 3).run(preflight=False)
    assert isinstance(report.error, DifyBatchError)
    assert cure in (report.error.hint or "")
    assert report.summary.untouched == 3


@pytest.mark.parametrize("fault", ["info_404", "info_404_html", "info_403"])
async def test_a_server_without_info_does(tmp_path: Path, server: Simulator, fault: str) -> None:
    server.faults(server={"name": fault})
    report = await batch(tmp_path, server, 3).run()
    assert (report.error, report.summary.success) == (None, 3)


@pytest.mark.parametrize("mode", ["streaming", "blocking"])
async def test_older_servers_give_outputs_as_text(tmp_path: Path, server: Simulator, mode: str) -> None:
    server.faults(
        rows={"r2": ["cut_after_start"], "r3": ["cut_after_accept"], "r4": ["error_502_run"]},
        server={"name": "outputs_as_text"},
    )
    folder = batch(tmp_path, server, 5)
    report = await folder.run(mode=mode, **SOON)
    assert report.error is None
    assert report.summary.recovered >= 2
    assert all(line["outputs"]["query"] == line["inputs"]["query"] for line in results(folder.output))


@pytest.mark.parametrize(
    ("mode", "fault"),
    [
        ("streaming", "lost_started"),
        ("streaming", "lost_finished"),
        ("streaming", "ids_disagree"),
        ("blocking", "ids_disagree"),
        ("blocking", "doubled"),
        ("streaming", "time_ms"),
        ("blocking", "time_ns"),
        ("streaming", "time_negative"),
        ("blocking", "time_text"),
        ("streaming", "time_list"),
        ("blocking", "endless"),
        ("blocking", "gzip_bomb"),
        ("streaming", "sse_cr"),
        ("streaming", "sse_crlf"),
        ("streaming", "sse_no_media_type"),
        ("streaming", "sse_other_case"),
    ],
)
async def test_odd_answers_lose_no_row_and_mix_none(tmp_path: Path, server: Simulator, mode: str, fault: str) -> None:
    server.faults(rows={"r2": [fault], "r3": [fault]})
    folder = batch(tmp_path, server, 5)
    report = await folder.run(mode=mode, concurrency=2, **SOON)
    assert report.error is None
    assert report.summary.success == 5
    assert executed_more_than_once(server) == {}
    for line in results(folder.output):
        assert line["outputs"]["query"] == line["inputs"]["query"]


async def test_a_status_that_no_client_knows_counts_as_failed(tmp_path: Path, server: Simulator) -> None:
    server.faults(rows={"r2": ["unknown_status"]})
    report = await batch(tmp_path, server, 3).run(**SOON)
    assert (report.summary.success, report.summary.failed) == (2, 1)


async def test_an_answer_that_is_sent_twice_is_nobodys(tmp_path: Path, server: Simulator) -> None:
    server.faults(server={"name": "doubled", "on": ["POST"]})
    folder = batch(tmp_path, server, 20)
    report = await folder.run(mode="blocking", concurrency=2, **SOON)
    assert report.error is None
    for line in results(folder.output):
        assert line["outputs"]["query"] == line["inputs"]["query"]


async def test_a_gateway_that_passes_no_run_ends_the_batch(tmp_path: Path, server: Simulator) -> None:
    server.faults(server={"name": "gateway_405", "on": ["POST"]})
    report = await batch(tmp_path, server, 5).run(max_outage=2, max_retry_delay=0.2)
    assert isinstance(report.error, DifyBatchError)
    assert (report.summary.success, report.summary.untouched) == (0, 5)


async def test_a_row_that_a_gateway_never_passes_fails_alone(tmp_path: Path, server: Simulator) -> None:
    server.faults(rows={"r3": ["gateway_405"] * 200})
    report = await batch(tmp_path, server, 10).run(max_retry_delay=0.1, max_outage=5)
    assert isinstance(report.error, DifyBatchError)
    assert (report.summary.success, report.summary.failed) == (9, 1)
