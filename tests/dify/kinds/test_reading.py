"""What each kind of app answers, read from recorded exchanges of a real server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dify_batch.dify.kinds.kind import AGENT, CHAT, CHATFLOW, COMPLETION, KINDS, WORKFLOW, Kind, kind_of
from dify_batch.dify.kinds.reading import Flowing, Talking
from dify_batch.dify.kinds.stored import conversation_page, message_detail
from dify_batch.dify.protocol import Reader
from dify_batch.dify.sse import EventStream
from dify_batch.outcomes import Failed, Fatal, Lost, Outcome, Paused, Rejected, Running, RunRef, Succeeded, Throttled
from tests.support.wire_files import recorded


def reader(kind: Kind) -> Reader:
    return Flowing(kind) if kind is CHATFLOW else Talking(kind)


def streamed(kind: Kind, name: str, *, until: int | None = None) -> Outcome:
    """The outcome of a recorded stream, or of its first events."""
    reading = reader(kind)
    stream = EventStream(every=reading.every)
    for event in stream.feed(recorded(name).body)[:until]:
        if (outcome := reading.feed(event)) is not None:
            return outcome
    return reading.end("cut")


def answered(kind: Kind, name: str) -> Outcome:
    exchange = recorded(name)
    return reader(kind).whole(exchange.status, exchange.headers, exchange.body, retry_after=None, first=False)


def good(outcome: Outcome | None) -> Any:
    assert isinstance(outcome, Succeeded), outcome
    return outcome.result


# --- answers ----------------------------------------------------------------------------------------------------


def test_a_chatflow_has_its_run_its_conversation_and_its_message() -> None:
    result = good(streamed(CHATFLOW, "31b-chatflow-streaming"))
    assert result.outputs == {
        "answer": "Q=hello T=cats R=slept 1",
        "files": [],
        "conversation_id": "92410be0-cc67-46a5-8977-a6efa5fee48e",
        "message_id": "8e58ee8b-5cee-419e-aed2-077dd4703bb7",
    }
    ref = result.ref
    assert ref.names == ("e75601c6-ddba-4176-9316-37528178df5f", "92410be0-cc67-46a5-8977-a6efa5fee48e")
    assert ref.task_id == "4ca48ec5-4a32-4049-b268-9a4097f3bd64"


def test_a_chatflow_of_a_model_tells_tokens_and_price() -> None:
    result = good(streamed(CHATFLOW, "31r2-llm-streaming"))
    assert result.total_tokens
    assert result.total_price
    assert result.currency == "USD"


def test_a_chat_in_one_piece() -> None:
    body = json.loads(recorded("32a-chat-blocking").body)
    result = good(answered(CHAT, "32a-chat-blocking"))
    assert result.outputs == {
        "answer": body["answer"],
        "conversation_id": body["conversation_id"],
        "message_id": body["message_id"],
    }
    usage = body["metadata"]["usage"]
    assert (result.total_tokens, result.total_price, result.currency) == (
        usage["total_tokens"],
        usage["total_price"],
        "USD",
    )
    assert result.ref == RunRef(body["conversation_id"], body["task_id"])


def test_a_completion_has_a_message_and_no_conversation() -> None:
    result = good(answered(COMPLETION, "33a-completion-blocking"))
    assert set(result.outputs) == {"answer", "message_id"}
    assert result.ref.run_id == result.outputs["message_id"]


def test_an_agent_says_what_all_its_pieces_say() -> None:
    result = good(streamed(AGENT, "34b-agent-streaming-with-tool"))
    assert result.outputs["answer"] == "Let me look. w1 w2 w3 "
    assert (result.total_tokens, result.total_price) == (22, "0.0000840")


def test_an_agent_of_newer_versions_closes_with_all_of_it_again() -> None:
    reading = Talking(AGENT)
    names = {"conversation_id": "c", "message_id": "m", "task_id": "t"}
    for event in (
        {"event": "agent_message", "answer": "one "},
        {"event": "reasoning_chunk", "answer": "hidden"},
        {"event": "agent_message", "answer": "two"},
        {"event": "message", "answer": "one two"},
    ):
        assert reading.feed({**names, **event}) is None
    end = {"event": "message_end", **names, "metadata": {"usage": {"total_tokens": 3}}}
    assert good(reading.feed(end)).outputs["answer"] == "one two"


def test_output_that_moderation_replaces() -> None:
    outcome = streamed(CHAT, "32t2-output-replaced-by-moderation-streaming")
    assert isinstance(outcome, Succeeded | Failed)
    assert "moderation" in outcome.result.outputs["answer"]


# --- failed, cut off, refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "error"),
    [
        (CHATFLOW, "31k-1-failing-blocking", "Run failed"),
        (CHAT, "32s-model-error-mid-blocking", "made-up error in the middle"),
        (CHAT, "32s-model-error-ratelimit-blocking", "ratelimit"),
    ],
)
def test_a_400_that_was_executed_has_failed_without_a_name(kind: Kind, name: str, error: str) -> None:
    outcome = answered(kind, name)
    assert isinstance(outcome, Failed)
    assert error in (outcome.result.error or "")
    assert outcome.result.ref.run_id == ""


def test_an_error_in_a_stream_is_the_models() -> None:
    outcome = streamed(AGENT, "34s-model-error-mid-streaming")
    assert isinstance(outcome, Failed)
    assert outcome.result.ref.run_id
    assert isinstance(streamed(CHATFLOW, "31k-2-failing-streaming"), Failed)


def test_the_models_connection_broke_and_was_never_made() -> None:
    def told(message: str) -> Outcome:
        body = json.dumps({"code": "invalid_param", "message": message, "status": 400}).encode()
        return Talking(CHAT).whole(400, {}, body, retry_after=None, first=False)

    assert isinstance(told("Request to Plugin Daemon Service failed-500"), Failed)  # [32ai]
    assert isinstance(told("Failed to request plugin daemon, url: plugin/x/management/models"), Throttled)  # [32ai]
    assert isinstance(told("something new"), Lost)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (CHAT, "32l-chat-a-missing-required-input"),
        (CHAT, "32l-chat-h2-query-empty"),
        (CHATFLOW, "31l-chatflow-h-query-missing"),
        (COMPLETION, "33l-completion-a-missing-required-input"),
        (AGENT, "34l-agent-h2-query-empty"),
    ],
)
def test_what_was_refused_was_never_run(kind: Kind, name: str) -> None:
    assert isinstance(answered(kind, name), Rejected)


def test_the_wrong_kind_stops_the_batch() -> None:
    blocking = answered(CHAT, "34a-agent-blocking")
    assert isinstance(blocking, Fatal)
    assert "--app-kind agent" in (blocking.hint or "")
    assert isinstance(answered(CHAT, "33m5-chat-with-completion-key"), Fatal)
    assert isinstance(answered(COMPLETION, "33m4-completion-with-chat-key"), Fatal)


def test_input_that_moderation_refuses() -> None:
    outcome = answered(CHAT, "32t1-input-refused-by-moderation-blocking")
    assert isinstance(outcome, Failed)
    assert outcome.code == "cut_off"
    flow = streamed(CHATFLOW, "31t1-input-refused-by-moderation-streaming")
    assert isinstance(flow, Failed)
    assert (flow.code, flow.result.outputs["answer"]) == ("cut_off", "input refused by moderation")


def test_a_stopped_chat_is_cut_off() -> None:
    outcome = streamed(CHAT, "32u1-stop-1-post")
    assert isinstance(outcome, Failed)
    assert outcome.code == "cut_off"
    assert outcome.result.outputs["answer"]


def test_an_error_before_a_chatflow_begins_leaves_a_message() -> None:
    names = {"conversation_id": "c", "message_id": "m"}
    unknown = Flowing(CHATFLOW).feed({"event": "error", **names, "message": "Failed to request plugin daemon, url: x"})
    assert isinstance(unknown, Failed)
    assert unknown.result.ref.run_id == "c"
    refused = Flowing(CHATFLOW).feed({"event": "error", **names, "message": "topic is required in input form"})
    assert isinstance(refused, Rejected)
    assert refused.left


# --- broken streams ---------------------------------------------------------------------------------------------


def test_a_cut_stream_has_the_name_that_it_told() -> None:
    flow = streamed(CHATFLOW, "31b-chatflow-streaming", until=1)
    assert isinstance(flow, Running)
    assert flow.ref.conversation_id == "92410be0-cc67-46a5-8977-a6efa5fee48e"
    agent = streamed(AGENT, "34b-agent-streaming-with-tool", until=3)
    assert isinstance(agent, Running)
    assert agent.ref.run_id == "aff16b7e-efae-472e-a2ee-61b2bb3a421f"
    assert isinstance(streamed(CHATFLOW, "31b-chatflow-streaming", until=0), Lost)
    pause = streamed(CHATFLOW, "31p1-pause-streaming")
    assert isinstance(pause, Paused)
    assert pause.ref.conversation_id
    assert pause.forms[0].token


# --- look-ups ---------------------------------------------------------------------------------------------------


def found(kind: Kind, name: str) -> Any:
    return message_detail(kind, json.loads(recorded(name).body), RunRef("c"), "query")


def test_conversations_are_a_list_of_runs() -> None:
    body = json.loads(recorded("32c-chat-lookups-of-a-finished-message-1-conversations").body)
    page, last = conversation_page(body, "u", None, None)
    assert [entry.run_id for entry in page.entries] == [row["id"] for row in body["data"]]
    assert page.entries[0].user == "u"
    assert last == body["data"][-1]["id"]


def test_a_stored_answer_is_the_rows_result() -> None:
    detail = found(CHAT, "32c-chat-lookups-of-a-finished-message-2-messages")
    row = json.loads(recorded("32c-chat-lookups-of-a-finished-message-2-messages").body)["data"][0]
    assert good(detail.outcome).outputs == {
        "answer": row["answer"],
        "conversation_id": row["conversation_id"],
        "message_id": row["id"],
    }
    assert json.loads(detail.inputs)["query"] == row["query"]
    assert isinstance(found(CHATFLOW, "31k-1-failing-blocking-after-2-messages").outcome, Failed)


def test_an_empty_answer_says_nothing_but_for_an_agents_thoughts() -> None:
    row: dict[str, Any] = {"id": "m", "conversation_id": "c", "query": "q", "answer": "", "status": "normal"}
    assert isinstance(message_detail(CHAT, {"data": [row]}, RunRef("c"), "query").outcome, Running)
    looking = {"position": 1, "thought": "Let me look. ", "tool": "current_time"}
    said = {"position": 2, "thought": "w1 w2", "tool": ""}
    under_way = row | {"agent_thoughts": [looking]}
    assert isinstance(message_detail(AGENT, {"data": [under_way]}, RunRef("c"), "query").outcome, Running)
    done = row | {"agent_thoughts": [said, looking]}
    result = good(message_detail(AGENT, {"data": [done]}, RunRef("c"), "query").outcome)
    assert result.outputs["answer"] == "Let me look. w1 w2"  # [34f]


# --- requests ---------------------------------------------------------------------------------------------------


def test_what_is_sent() -> None:
    inputs = {"id": "1", "query": "hello", "topic": "cats"}
    talk = CHAT.request(inputs, user="u", mode="blocking")
    assert talk == {
        "inputs": {"id": "1", "topic": "cats"},
        "query": "hello",
        "response_mode": "blocking",
        "user": "u",
        "auto_generate_name": False,
    }
    assert inputs["query"] == "hello", "what was given is left as it was"
    both = CHAT.request(inputs, user="u", mode="blocking", keep_message=True)
    assert (both["query"], both["inputs"]["query"]) == ("hello", "hello")
    plain = COMPLETION.request(inputs, user="u", mode="blocking", workflow_id="w")
    assert plain == {"inputs": inputs, "response_mode": "blocking", "user": "u"}
    assert CHATFLOW.request(inputs, user="u", mode="streaming", workflow_id="w")["workflow_id"] == "w"


def test_each_kind_by_its_name_and_by_difys_word() -> None:
    assert [kind_of(kind.mode) for kind in KINDS.values()] == list(KINDS.values())
    assert kind_of("agent") is AGENT
    assert kind_of("rag-pipeline") is None
    assert kind_of(None) is None
    assert WORKFLOW.only is None
