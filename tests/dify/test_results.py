"""What a run came to: values as they came, times of any unit, prices and failed nodes out of the nodes' events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dify_batch.dify.protocol import Events, answer_outcome, detail_outcome
from dify_batch.dify.results import number, outputs_of, seconds, text
from dify_batch.dify.sse import EventStream
from dify_batch.outcomes import Failed, FailedNode, Lost, Outcome, Paused, Running, RunRef, RunResult, Succeeded
from tests.support.wire_files import recorded

REF = RunRef("r1", "t1")


def detail(**data: Any) -> Outcome | None:
    return detail_outcome(200, json.dumps({"id": "r1", **data}).encode(), REF)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"a": 1}, {"a": 1}),
        ('{"a": {"b": [1]}}', {"a": {"b": [1]}}),
        ("{}", {}),
        (None, {}),
        ("just text", "just text"),
        ('["a"]', '["a"]'),
        ('{"a": 1', '{"a": 1'),
        ("", ""),
        (["a"], ["a"]),
        (7, 7),
        (False, False),
    ],
)
def test_outputs_stay_as_they_came_and_text_that_holds_an_object_is_parsed(given: Any, kept: Any) -> None:
    assert outputs_of(given) == kept
    outcome = detail(status="succeeded", outputs=given)
    assert isinstance(outcome, Succeeded)
    assert outcome.result.outputs == kept
    answered = {"workflow_run_id": "r1", "data": {"id": "r1", "status": "succeeded", "outputs": given}}
    blocking = answer_outcome(200, {}, json.dumps(answered).encode())
    assert isinstance(blocking, Succeeded)
    assert blocking.result.outputs == kept


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        (1_795_307_637, 1_795_307_637),
        (1_795_307_637.9, 1_795_307_637),
        (1_795_307_637_123, 1_795_307_637),
        (1_795_307_637_123_456, 1_795_307_637),
        (1_795_307_637_123_456_789, 1_795_307_637),
        ("1795307637", 1_795_307_637),
        ("1795307637123", 1_795_307_637),
        ("2026-11-21T23:33:57Z", 1_795_304_037),
        ("2026-11-21 23:33:57", 1_795_304_037),
        ("2026-11-22T01:33:57+02:00", 1_795_304_037),
        (0, None),
        (-5, None),
        (10**400, None),
        (float("inf"), None),
        (float("nan"), None),
        ("", None),
        ("soon", None),
        ("9" * 5000, None),
        ("1e400", None),
        ("nan", None),
        ("0001-01-01T00:00:00Z", None),
        ("9999-12-31T23:59:59-12:00", None),
        ([1_795_307_637], None),
        ({}, None),
        (True, None),
        (None, None),
    ],
)
def test_times_of_any_unit_and_none(value: Any, moment: int | None) -> None:
    assert seconds(value) == moment
    outcome = detail(status="succeeded", outputs={"a": 1}, finished_at=value)
    assert isinstance(outcome, Succeeded)
    assert (outcome.result.outputs, outcome.result.finished_at) == ({"a": 1}, moment)
    paused = detail(status="paused", reasons=[{"form_token": "x", "expiration_time": value}])
    assert isinstance(paused, Paused)
    assert paused.forms[0].expires_at == moment


@pytest.mark.parametrize("value", [-1, 10**400, float("nan"), float("inf"), "7", [1], {}, True, None])
def test_what_is_no_number_is_left_out(value: Any) -> None:
    assert number(value) is None
    outcome = detail(status="succeeded", elapsed_time=value, total_tokens=value, total_steps=value)
    assert isinstance(outcome, Succeeded)
    assert (outcome.result.elapsed_time, outcome.result.total_tokens, outcome.result.total_steps) == (None,) * 3


def test_words_are_cut() -> None:
    assert len(text("x" * 10_000_000)) < 10_000
    assert text(10**5000) == ""
    outcome = detail(status="failed", error="x" * 10_000_000)
    assert isinstance(outcome, Failed)
    assert len(outcome.message) < 10_000


# --- whether a run has ended ------------------------------------------------------------------------------------------


def finished(**data: Any) -> Outcome | None:
    event = {"event": "workflow_finished", "workflow_run_id": "r1", "data": {"id": "r1", **data}}
    return Events(ref=REF).feed(event)


@pytest.mark.parametrize("word", ["exception", "SUCCEEDED", "cancelled", "partial_succeeded", "zzz"])
def test_a_word_that_is_not_known_ends_a_run_that_has_ended(word: str) -> None:
    for outcome in (finished(status=word), detail(status=word, finished_at=1_795_307_637)):
        assert isinstance(outcome, Failed)
        assert outcome.confirmed
        assert word in outcome.message
        assert (outcome.code, outcome.result.status) == ("run_failed", word)
    assert isinstance(detail(status=word), Running)
    assert isinstance(detail(status=word, finished_at=None), Running)


def test_a_run_that_has_ended_without_a_word_is_asked_for_its_detail() -> None:
    for outcome in (finished(status="running"), finished(), finished(status=None)):
        assert isinstance(outcome, Failed)
        assert not outcome.confirmed
    assert isinstance(detail(finished_at=1_795_307_637), Failed)
    assert isinstance(detail(status="running"), Running)


# --- whose answer it is -----------------------------------------------------------------------------------------------


def test_an_answer_that_names_two_runs_is_nobodys() -> None:
    body = {"workflow_run_id": "r1", "data": {"id": "r2", "status": "succeeded", "outputs": {}}}
    assert isinstance(answer_outcome(200, {}, json.dumps(body).encode()), Lost)


def test_the_end_of_another_run_does_not_end_this_one() -> None:
    events = Events()
    events.feed({"event": "workflow_started", "workflow_run_id": "r1", "task_id": "t1", "data": {"id": "r1"}})
    other = {"event": "workflow_finished", "workflow_run_id": "r2", "data": {"id": "r2", "status": "succeeded"}}
    assert events.feed(other) == Running(REF, "its stream told of another run")
    assert events.feed({**other, "event": "text_chunk"}) is None


RUN = "08d0d31b-f468-4c9c-b4da-30ad8da0ea5a"


@pytest.mark.parametrize("name", ["node_started", "node_finished", "text_chunk", "agent_log", "something_new"])
def test_the_first_event_that_names_a_run_is_its_start(name: str) -> None:
    events = Events()
    assert events.feed({"event": name, "workflow_run_id": RUN, "task_id": "t1", "data": {}}) is None
    assert events.ref == RunRef(RUN, "t1")
    assert events.end("the stream ended") == Running(RunRef(RUN, "t1"), "the stream ended")


def test_an_end_without_a_start_is_an_end() -> None:
    event = {"event": "workflow_finished", "workflow_run_id": RUN, "data": {"id": RUN, "status": "succeeded"}}
    outcome = Events().feed(event)
    assert isinstance(outcome, Succeeded)
    assert outcome.result.ref.run_id == RUN


# --- prices and failed nodes ------------------------------------------------------------------------------------------


def streamed(*bodies: bytes) -> RunResult:
    stream, events = EventStream(), Events()
    for body in bodies:
        for event in stream.feed(body):
            if (outcome := events.feed(event)) is not None:
                assert isinstance(outcome, Succeeded | Failed)
                return outcome.result
    raise AssertionError("no end")


@pytest.mark.parametrize(
    ("name", "price", "currency"),
    [
        ("35b1-llm-streaming", "0.000036", "USD"),
        ("35b3-two-llms-streaming", "0.000072", "USD"),
        ("35d1-parallel-iteration-llm-streaming", "0.000072", "USD"),  # the iteration's own sum, not its nodes' besides
        ("35e1-loop-streaming", "0", "USD"),
        ("35b5-llm-error-streaming", None, None),
        ("02-streaming-success", None, None),
    ],
)
def test_the_price_of_a_recorded_run(name: str, price: str | None, currency: str | None) -> None:
    result = streamed(recorded(name).body)
    assert (result.total_price, result.currency, result.prices) == (price, currency, None)
    assert result.workflow_id is not None


def test_the_node_that_a_run_failed_at() -> None:
    failed = streamed(recorded("35b5-llm-error-streaming").body)
    assert failed.failed_node == FailedNode("LLM", "llm", "made-up error in the middle")
    # An inner node failed and the iteration went on: the run has not failed.
    assert streamed(recorded("35d1-parallel-iteration-llm-streaming").body).failed_node is None


def retried_then_failed(error: str) -> RunResult:
    node = {"node_id": "n1", "node_type": "llm", "title": "Ask", "error": "429 from the model", "retry_index": 1}
    end = {"id": RUN, "status": "failed", "error": error, "outputs": {}}
    return streamed(sse("workflow_started", id=RUN) + sse("node_retry", **node) + sse("workflow_finished", **end))


def test_a_node_that_was_tried_again_counts_where_the_error_of_the_run_is_its_own() -> None:
    assert retried_then_failed("429 from the model").failed_node == FailedNode("Ask", "llm", "429 from the model")
    assert retried_then_failed("another node's error").failed_node is None


def sse(name: str, **data: Any) -> bytes:
    return b"data: " + json.dumps({"event": name, "workflow_run_id": RUN, "data": data}).encode() + b"\n\n"


def cost(price: object, currency: object = "USD") -> dict[str, object]:
    return {"total_tokens": 1, "total_price": price, "currency": currency}


START = sse("workflow_started", id=RUN)
END = sse("workflow_finished", id=RUN, status="succeeded", outputs={})


def test_currencies_stay_apart() -> None:
    nodes = [sse("node_finished", execution_metadata=cost("0.1", name)) for name in ("USD", "EUR", "USD")]
    result = streamed(START, *nodes, END)
    assert (result.total_price, result.currency) == (None, None)
    assert result.prices == {"EUR": "0.1", "USD": "0.2"}


def test_an_iteration_that_tells_no_sum_has_its_nodes() -> None:
    inner = [sse("node_finished", iteration_id="it", execution_metadata=cost("0.1")) for _ in range(3)]
    assert streamed(START, *inner, END).total_price == "0.3"  # cut off before its end
    assert streamed(START, *inner, sse("iteration_completed", node_id="it"), END).total_price == "0.3"
    told = sse("iteration_completed", node_id="it", execution_metadata=cost("0.25"))
    assert streamed(START, *inner, told, END).total_price == "0.25"


def test_an_iteration_within_a_loop_is_counted_once() -> None:
    inner = sse("node_finished", iteration_id="it", execution_metadata=cost("0.1"))
    middle = sse("iteration_completed", node_id="it", loop_id="loop", execution_metadata=cost("0.1"))
    outer = sse("loop_completed", node_id="loop", execution_metadata=cost("0.1"))
    assert streamed(START, inner, middle, outer, END).total_price == "0.1"
    assert streamed(START, inner, middle, END).total_price == "0.1"


@pytest.mark.parametrize("price", ["free", "", None, -1, "NaN", [], {}, True])
def test_what_is_no_price_counts_for_nothing(price: object) -> None:
    assert streamed(START, sse("node_finished", execution_metadata=cost(price)), END).total_price is None


def test_sums_are_exact() -> None:
    nodes = [sse("node_finished", execution_metadata=cost("0.1")) for _ in range(10)]
    assert streamed(START, *nodes, END).total_price == "1"
