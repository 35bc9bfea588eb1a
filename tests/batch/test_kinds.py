"""Batches over chatflow, chat, agent and completion apps: what each is asked, what is found again, and what is not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from dify_batch.errors import AppError, InvalidInput, UsageError
from dify_batch.simulator import DEMO_KEYS, Config, Simulator
from tests.support.batchfolder import BatchFolder
from tests.support.harness import executed_more_than_once, places, results

KINDS = ("chatflow", "chat", "agent", "completion")
TALKING = ("chatflow", "chat", "agent")


@pytest.fixture
def server() -> Iterator[Simulator]:
    config = Config(
        latency=0.05, workers=None, linger_after_finish=0.1, snapshot_delay=0.01, stop_delay=0.01, user_creation=0.01
    )
    with Simulator(config) as simulator:
        yield simulator


@pytest.fixture
def folder(tmp_path: Path, server: Simulator) -> BatchFolder:
    return BatchFolder(tmp_path, server)


def reasons(folder: BatchFolder) -> dict[str, tuple[str, str, str]]:
    """(kind, code, message) of each row that has come to `.retry`."""
    return {
        record["id"]: (record["kind"], record["code"], record["message"])
        for record in folder.journal()
        if record["event"] == "failed"
    }


@pytest.mark.parametrize("kind", KINDS)
async def test_every_row_is_answered_by_the_key_alone(folder: BatchFolder, kind: str) -> None:
    report = await folder.run(api_key=DEMO_KEYS[kind])
    assert (report.exit_status, report.summary.success) == (0, 10)
    assert folder.executions() == {f"r{number}": 1 for number in range(1, 11)}
    for line in results(folder.output):
        outputs = line["outputs"]
        assert outputs["answer"] == f"Echo: {line['inputs']['query']}"
        assert ("conversation_id" in outputs) == (kind != "completion")
        assert outputs["message_id"] != line["workflow_run_id"] or kind == "completion"
        assert line["total_tokens"] > 0
        assert (line["currency"], float(line["total_price"]) > 0) == ("USD", True)
    modes = {record["mode"] for record in folder.journal() if record["event"] == "sent"}
    assert modes == {"streaming" if kind in ("chatflow", "agent") else "blocking"}
    assert folder.server.state(runs=False)["named"] == 0, "no call of the model for a conversation's name"


@pytest.mark.parametrize("kind", TALKING)
async def test_a_lost_answer_is_found_again_and_never_asked_for_twice(folder: BatchFolder, kind: str) -> None:
    folder.server.faults(rows={"r2": ["cut_after_accept"], "r5": ["error_500_run"], "r9": ["cut_after_accept"]})
    report = await folder.run(api_key=DEMO_KEYS[kind])
    assert (report.exit_status, report.summary.success, report.summary.recovered) == (0, 10, 3), reasons(folder)
    assert executed_more_than_once(folder.server) == {}
    for line in results(folder.output):
        assert line["outputs"]["answer"] == f"Echo: {line['inputs']['query']}"


async def test_a_lost_completion_is_unknown_and_never_sent_again_by_itself(folder: BatchFolder) -> None:
    folder.server.faults(rows={"r2": ["cut_after_accept"], "r5": ["cut_before"]})
    report = await folder.run(api_key=DEMO_KEYS["completion"])
    assert (report.exit_status, report.summary.success, report.summary.unknown) == (1, 8, 2)
    assert set(reasons(folder)) == {"r2", "r5"}
    assert all("cannot be known" in message for _, _, message in reasons(folder).values())
    again = await folder.run(api_key=DEMO_KEYS["completion"], retry=True)
    assert again.summary.unknown == 2, "--retry sends nothing that may have been executed"
    await folder.run(api_key=DEMO_KEYS["completion"], retry=True, retry_unknown=True)
    assert places(folder.output).done == {f"r{number}" for number in range(1, 11)}


@pytest.mark.parametrize("kind", TALKING)
async def test_what_never_arrived_is_sent_again_once_that_is_certain(folder: BatchFolder, kind: str) -> None:
    folder.server.faults(rows={"r2": ["cut_before"]})
    report = await folder.run(api_key=DEMO_KEYS[kind])
    assert (report.exit_status, report.summary.success) == (0, 10), reasons(folder)
    assert (folder.executions()["r2"], report.summary.posts) == (1, 11)


@pytest.mark.parametrize("kind", ["chatflow", "agent"])
@pytest.mark.parametrize("fault", ["cut_after_start", "cut_mid_stream", "clean_end", "lost_finished"])
async def test_a_broken_stream_costs_no_answer(folder: BatchFolder, kind: str, fault: str) -> None:
    folder.server.faults(rows={"r3": [fault]})
    report = await folder.run(api_key=DEMO_KEYS[kind])
    assert (report.exit_status, report.summary.success) == (0, 10), reasons(folder)
    assert executed_more_than_once(folder.server) == {}
    (line,) = [line for line in results(folder.output) if line["id"] == "r3"]
    assert line["outputs"]["answer"] == "Echo: question r3"
    assert {"conversation_id", "message_id"} <= set(line["outputs"])


@pytest.mark.parametrize("kind", KINDS)
async def test_what_was_executed_and_failed_is_not_taken_for_refused(folder: BatchFolder, kind: str) -> None:
    folder.server.faults(rows={"r3": ["failed"]})
    report = await folder.run(api_key=DEMO_KEYS[kind])
    assert (report.exit_status, report.summary.failed) == (1, 1)
    assert reasons(folder)["r3"][:2] == ("failed", "run_failed")
    assert folder.executions()["r3"] == 1
    folder.server.faults()
    again = await folder.run(api_key=DEMO_KEYS[kind], retry=True)
    assert (again.exit_status, again.summary.success) == (0, 1)


@pytest.mark.parametrize("kind", ["chat", "completion"])
async def test_a_model_that_broke_off_has_been_paid(folder: BatchFolder, kind: str) -> None:
    folder.server.faults(rows={"r3": ["model_broke"]})
    await folder.run(api_key=DEMO_KEYS[kind])
    assert reasons(folder)["r3"] == ("failed", "run_failed", "Request to Plugin Daemon Service failed-500")
    assert folder.executions()["r3"] == 1


@pytest.mark.parametrize("kind", ["chat", "agent", "completion"])
@pytest.mark.parametrize("fault", ["cut_off", "moderated"])
async def test_an_answer_that_only_looks_whole_is_a_failure(folder: BatchFolder, kind: str, fault: str) -> None:
    folder.server.faults(rows={"r3": [fault]})
    report = await folder.run(api_key=DEMO_KEYS[kind])
    assert (report.exit_status, report.summary.failed) == (1, 1)
    assert reasons(folder)["r3"][:2] == ("failed", "cut_off")
    (kept,) = [record["outputs"] for record in folder.journal() if record["event"] == "kept"]
    assert kept["message_id"]
    assert fault == "cut_off" or kept["answer"] == "input refused by moderation"
    assert "r3" not in {line["id"] for line in results(folder.output)}


async def test_a_chatflow_whose_input_is_refused_by_moderation_does_not_wait_for_its_stream(
    folder: BatchFolder,
) -> None:
    folder.server.faults(rows={"r3": ["moderated"]})
    async with asyncio.timeout(20):
        await folder.run(api_key=DEMO_KEYS["chatflow"])
    assert reasons(folder)["r3"][1] == "cut_off"
    assert "no workflow ran" in reasons(folder)["r3"][2]


async def test_a_chatflow_that_the_wire_calls_stopped_and_that_succeeds_has_its_result(folder: BatchFolder) -> None:
    folder.server.faults(rows={"r3": ["stopped_but_succeeds"]})
    report = await folder.run(api_key=DEMO_KEYS["chatflow"])
    assert (report.exit_status, report.summary.success) == (0, 10), reasons(folder)


async def test_output_that_moderation_replaced_is_the_answer(folder: BatchFolder) -> None:
    folder.server.faults(rows={"r3": ["replaced"]})
    await folder.run(api_key=DEMO_KEYS["agent"])
    (line,) = [line for line in results(folder.output) if line["id"] == "r3"]
    assert line["outputs"]["answer"] == "output replaced by moderation"


@pytest.mark.parametrize(
    ("kind", "mode", "why"),
    [
        ("chat", "streaming", "loses the answer for ever"),
        ("completion", "streaming", "loses the answer for ever"),
        ("agent", "blocking", "streams only"),
        ("chatflow", "blocking", "neither its run nor whether the answer is whole"),
    ],
)
async def test_a_mode_that_would_lose_answers_is_refused(folder: BatchFolder, kind: str, mode: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        await folder.run(api_key=DEMO_KEYS[kind], mode=mode)
    assert folder.server.state(runs=False)["post_total"] == 0


async def test_the_message_is_required_and_not_empty(folder: BatchFolder) -> None:
    folder.data.write_text("id,question\nr1,hello\n", encoding="utf-8")
    with pytest.raises(InvalidInput, match="query"):
        await folder.run(api_key=DEMO_KEYS["chat"])
    folder.data.write_text("id,query\nr1,\n", encoding="utf-8")
    with pytest.raises(InvalidInput, match="empty"):
        await folder.run(api_key=DEMO_KEYS["chat"])
    folder.data.write_text('{"id": "r1", "query": ""}\n', encoding="utf-8")
    with pytest.raises(InvalidInput, match="empty"):
        await folder.run(api_key=DEMO_KEYS["chat"])
    assert folder.server.state(runs=False)["post_total"] == 0


async def test_the_message_may_stand_in_a_column_of_another_name(folder: BatchFolder) -> None:
    folder.data.write_text("id,question,topic\nr1,hello,cats\n", encoding="utf-8")
    report = await folder.run(api_key="app-ch1", query_column="question")
    assert report.exit_status == 0
    (line,) = results(folder.output)
    assert line["inputs"] == {"id": "r1", "question": "hello", "topic": "cats"}
    assert line["outputs"]["answer"] == "Echo: hello"


async def test_what_does_not_go_with_a_kind_is_told(folder: BatchFolder) -> None:
    with pytest.raises(UsageError, match="asked by its inputs alone"):
        await folder.run(api_key=DEMO_KEYS["completion"], query_column="query")
    with pytest.raises(UsageError, match="version of a workflow"):
        await folder.run(api_key=DEMO_KEYS["chat"], workflow_id="0b0f0a5e-6d1e-4f0e-9f5b-3a7cf2f0d1aa")
    report = await folder.run(api_key=DEMO_KEYS["completion"], app_kind="chat")
    assert isinstance(report.error, AppError)
    assert folder.executions() == {}


@pytest.mark.parametrize("kind", ["chatflow", "chat", "completion", "workflow"])
async def test_the_kind_is_found_where_the_server_does_not_tell_it(folder: BatchFolder, kind: str) -> None:
    folder.server.faults(server=["info_404"])
    report = await folder.run(api_key=DEMO_KEYS[kind], limit=2)
    assert (report.exit_status, report.summary.success) == (0, 2), report.error


async def test_an_agent_without_info_wants_its_kind_named(folder: BatchFolder) -> None:
    folder.server.faults(server=["info_404"])
    report = await folder.run(api_key=DEMO_KEYS["agent"])
    assert report.error is not None
    assert "--app-kind agent" in str(report.error.hint)
    report = await folder.run(api_key=DEMO_KEYS["agent"], app_kind="agent")
    assert (report.exit_status, report.summary.success) == (0, 10)


async def test_a_user_of_many_rows_finds_a_lost_answer_by_its_message(folder: BatchFolder) -> None:
    folder.server.faults(rows={"r2": ["cut_after_accept"], "r7": ["cut_after_accept"]})
    report = await folder.run(api_key=DEMO_KEYS["chat"], user="crm")
    assert (report.exit_status, report.summary.success, report.summary.recovered) == (0, 10, 2), reasons(folder)
    assert executed_more_than_once(folder.server) == {}
    for line in results(folder.output):
        assert line["outputs"]["answer"] == f"Echo: {line['inputs']['query']}"


async def test_a_chatflow_that_pauses_is_answered_and_collected(folder: BatchFolder) -> None:
    folder.data.write_text("id,query,topic\nr1,hello,cats\n", encoding="utf-8")
    report = await folder.run(api_key="app-cf3")
    assert (report.exit_status, report.summary.paused) == (0, 1)
    (paused,) = results(folder.path / "results.jsonl.paused")
    assert paused["form_token"]
    folder.server.submit_form(paused["workflow_run_id"])
    report = await folder.run(api_key="app-cf3")
    assert (report.exit_status, report.summary.success, report.summary.posts) == (0, 1, 0)
    (line,) = results(folder.output)
    assert line["outputs"]["answer"] == "approved ok"
    assert {"conversation_id", "message_id"} <= set(line["outputs"])
    assert line["workflow_run_id"] == paused["workflow_run_id"]


async def test_a_dry_run_shows_the_mode_of_the_kind(folder: BatchFolder) -> None:
    report = await folder.run(api_key=DEMO_KEYS["chat"], dry_run=True)
    assert report.plan is not None
    assert report.plan.mode == "blocking"
    assert report.plan.payloads[0]["response_mode"] == "blocking"


async def test_an_empty_answer_that_was_looked_up_is_unknown_with_the_reason_in_words(folder: BatchFolder) -> None:
    folder.server.faults(rows={"r2": ["zombie_blocking"]})
    report = await folder.run(api_key=DEMO_KEYS["chat"], stuck_after=1.5)
    assert (report.exit_status, report.summary.success, report.summary.unknown) == (1, 9, 1)
    kind, code, message = reasons(folder)["r2"]
    assert (kind, code) == ("unknown", "run_stuck")
    assert "was lost with the server's process" in message
    assert "is truly empty" in message
    folder.server.faults()
    careful = await folder.run(api_key=DEMO_KEYS["chat"], retry=True)
    assert (careful.exit_status, careful.summary.unknown, careful.summary.posts) == (1, 1, 0)
    again = await folder.run(api_key=DEMO_KEYS["chat"], retry=True, retry_unknown=True)
    assert (again.exit_status, again.summary.success) == (0, 1), reasons(folder)


async def test_without_a_preflight_the_kind_is_named(folder: BatchFolder) -> None:
    report = await folder.run(api_key=DEMO_KEYS["agent"], preflight=False, app_kind="agent")
    assert (report.exit_status, report.summary.success) == (0, 10)
    folder.output.unlink()
    folder.path.joinpath("results.jsonl.journal").unlink()
    report = await folder.run(api_key=DEMO_KEYS["chat"], preflight=False)
    assert report.error is not None
    assert "--app-kind" in str(report.error.hint)


async def test_one_message_for_all_rows(folder: BatchFolder) -> None:
    folder.data.write_text("id,topic\nr1,cats\nr2,dogs\n", encoding="utf-8")
    report = await folder.run(api_key="app-ch1", constants={"query": "Describe it."})
    assert (report.exit_status, report.summary.success) == (0, 2)
    assert {line["outputs"]["answer"] for line in results(folder.output)} == {"Echo: Describe it."}


async def test_a_refused_stream_of_the_release_is_silent_and_costs_no_answer(folder: BatchFolder) -> None:
    folder.server.faults(server=["mute_refusals"], rows={"r2": ["rejected"]})
    report = await folder.run(api_key=DEMO_KEYS["chatflow"], timeout=1.0)
    assert report.summary.success >= 9
    assert executed_more_than_once(folder.server) == {}
