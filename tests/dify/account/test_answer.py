"""What runs come to, out of recorded streams and cut ones."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dify_batch.dify.account.answer import Fold
from dify_batch.dify.account.talk import Talk
from dify_batch.dify.sse import EventStream
from dify_batch.outcomes import Failed, Lost, Outcome, Paused, Rejected, Running, Succeeded
from tests.support.wire_files import recorded


def events(name: str) -> list[dict[str, Any]]:
    stream = EventStream(every=True)
    return [*stream.feed(recorded(name).body), *stream.finish()]


def folded(name: str, mode: str, until: str = "") -> tuple[Fold, str]:
    fold, shown = Fold(mode), ""
    for event in events(name):
        if event.get("event") == until:
            break
        shown += fold.feed(event)
    return fold, shown


@pytest.mark.parametrize(
    ("name", "mode", "status", "text"),
    [
        ("27i-run", "workflow", "succeeded", 'hello\nen\n3\nformal\nTrue\n{\n  "a": 1\n}'),
        ("27i16-run-failed", "workflow", "failed", ""),
        ("27i3-run-missing-input", "workflow", "refused", ""),
        ("27l-human-input", "workflow", "paused", ""),
        ("27i18-run-chatflow", "advanced-chat", "succeeded", "hi hi"),
        ("32b-chat-streaming", "chat", "succeeded", "w1 w2 w3 "),
        ("33b-completion-streaming", "completion", "succeeded", "w1 w2 w3 "),
        ("34b-agent-streaming-with-tool", "agent-chat", "succeeded", "Let me look. w1 w2 w3 "),
    ],
)
def test_recorded_streams(name: str, mode: str, status: str, text: str) -> None:
    fold, shown = folded(name, mode)
    assert fold.end is not None
    assert (fold.end.status, shown) == (status, text)
    found = fold.end.as_dict()
    assert json.loads(json.dumps(found))["status"] == status
    if mode != "workflow":
        assert found["answer"] == text
        assert found["message_id"]
        assert ("conversation_id" in found) == (mode != "completion")
    if status == "paused":
        assert found["forms"][0]["form_token"] == "nmJw0Ql5tszeDYQEGmK3qH"
    if status == "refused":
        assert fold.end.error == "query is required in input form"


def test_a_stream_that_is_cut() -> None:
    fold, _ = folded("27i-run", "workflow", until="workflow_finished")
    assert fold.end is None
    lost = fold.lost("cut")
    assert (lost.status, lost.error, lost.good) == ("unknown", "cut", False)
    assert lost.run_id == "99840e53-14a0-4b0d-887f-8e70219c6289"


def test_moderation_replaces_the_text() -> None:
    fold = Fold("chat")
    fold.feed({"event": "message", "answer": "bad", "message_id": "m"})
    fold.feed({"event": "message_replace", "answer": "good"})
    fold.feed({"event": "message_end", "metadata": {}})
    assert fold.end is not None
    assert fold.end.answer == "good"


def outcome(name: str, mode: str) -> Outcome | None:
    talk = Talk(mode)
    for event in events(name):
        if (found := talk.feed(event)) is not None:
            return found
    return talk.end("cut")


def test_the_batch_s_outcomes() -> None:
    done = outcome("27i-run", "workflow")
    assert isinstance(done, Succeeded)
    assert done.result.outputs["query"] == "hello"
    assert isinstance(outcome("27i16-run-failed", "workflow"), Failed)
    assert isinstance(outcome("27i3-run-missing-input", "workflow"), Rejected)
    assert isinstance(outcome("27l-human-input", "workflow"), Paused)
    chatflow = outcome("27i18-run-chatflow", "advanced-chat")
    assert isinstance(chatflow, Succeeded)
    assert chatflow.result.outputs["answer"] == "hi hi"
    assert chatflow.result.outputs["conversation_id"] == "f82e7cd8-0da6-4101-aede-125835d605a1"
    chat = outcome("32b-chat-streaming", "chat")
    assert isinstance(chat, Succeeded)
    assert chat.result.outputs["answer"] == "w1 w2 w3 "
    assert chat.result.total_price is not None
    assert chat.result.currency == "USD"


def test_a_chat_that_breaks_is_lost_and_a_workflow_is_known() -> None:
    chat = Talk("chat")
    chat.feed({"event": "message", "answer": "half", "message_id": "m", "task_id": "t"})
    assert isinstance(chat.end("cut"), Lost)
    workflow = Talk("workflow")
    workflow.feed(events("27i-run")[0])
    assert isinstance(workflow.end("cut"), Running)


def test_an_answer_without_any_use_of_the_model_was_cut_off() -> None:
    talk = Talk("chat")
    talk.feed({"event": "message", "answer": "half", "message_id": "m", "task_id": "t"})
    end = talk.feed({"event": "message_end", "metadata": {"usage": {"total_tokens": 0}}})
    assert isinstance(end, Failed)
    assert "cut_off" in str(end.result.error)
    assert end.result.outputs["answer"] == "half"


@pytest.mark.parametrize("name", ["32s-model-error-ratelimit-streaming", "32s-model-error-mid-streaming"])
def test_an_error_of_the_model_is_a_failed_run(name: str) -> None:
    end = outcome(name, "chat")
    assert isinstance(end, Failed)
    assert "made-up" in str(end.result.error)
    fold, _ = folded(name, "chat")
    assert fold.end is not None
    assert fold.end.status == "failed"
