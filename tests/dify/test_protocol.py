"""Each row of the outcome table, on recorded exchanges of a real server."""

from __future__ import annotations

import json

import pytest

from dify_batch.dify.protocol import (
    Events,
    answer_outcome,
    detail_outcome,
    follow_outcome,
)
from dify_batch.dify.sse import EventStream
from dify_batch.dify.word import Word, event_refusal, refusal
from dify_batch.outcomes import (
    Failed,
    Fatal,
    Lost,
    Outcome,
    Paused,
    PausedForm,
    Rejected,
    Running,
    RunRef,
    Succeeded,
    Throttled,
    Unreachable,
)
from tests.support.wire_files import recorded

REF = RunRef("r1", "t1")


def answered(name: str) -> Outcome:
    exchange = recorded(name)
    return answer_outcome(exchange.status, exchange.headers, exchange.body)


def streamed(name: str) -> Outcome:
    stream, events = EventStream(), Events()
    for event in stream.feed(recorded(name).body):
        if (outcome := events.feed(event)) is not None:
            return outcome
    return events.end("the stream ended")


def detailed(name: str) -> Outcome | None:
    exchange = recorded(name)
    body = json.loads(exchange.body) if exchange.body.startswith(b"{") else {}
    if "id" in body:
        body["id"] = REF.run_id
        return detail_outcome(exchange.status, json.dumps(body).encode(), REF)
    return detail_outcome(exchange.status, exchange.body, REF)


# --- a run that was made ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "run_id", "task_id", "steps"),
    [
        (
            answered("01-blocking-success"),
            "08d0d31b-f468-4c9c-b4da-30ad8da0ea5a",
            "aebc4363-83e2-4f5f-bcaa-c5bef3a5416e",
            2,
        ),
        (
            streamed("02-streaming-success"),
            "5a2391ec-9e9c-4b4c-9e72-e67e34587382",
            "a1671b21-462b-4c3a-8565-e943d593480c",
            2,
        ),
        (detailed("13-run-detail-succeeded"), "r1", "t1", 2),
    ],
    ids=["answer", "stream", "detail"],
)
def test_succeeded(outcome: Outcome, run_id: str, task_id: str, steps: int) -> None:
    assert isinstance(outcome, Succeeded)
    assert not outcome.partial
    result = outcome.result
    assert (result.ref, result.total_steps, result.error) == (RunRef(run_id, task_id), steps, None)
    assert set(result.outputs) == {"query", "language", "n", "tone", "flag", "meta"}
    assert result.elapsed_time is not None
    assert result.elapsed_time > 0
    assert result.total_tokens == 0
    assert result.finished_at is not None
    assert result.finished_at > 1795300000


@pytest.mark.parametrize(
    "outcome", [answered("15d-partial-succeeded-default-value-blocking"), detailed("13c-run-detail-partial-succeeded")]
)
def test_partial_success_is_a_success(outcome: Outcome) -> None:
    assert isinstance(outcome, Succeeded)
    assert outcome.partial


@pytest.mark.parametrize(
    "outcome",
    [answered("15-failed-blocking"), streamed("15c-failed-streaming"), detailed("13b-run-detail-failed")],
    ids=["answer", "stream", "detail"],
)
def test_failed_inside_http_200(outcome: Outcome) -> None:
    assert isinstance(outcome, Failed)
    assert outcome.confirmed
    assert outcome.code == "run_failed"
    assert outcome.message.startswith("Reached maximum retries")


@pytest.mark.parametrize(
    "outcome",
    [answered("30d-app-max-execution-time-blocking"), streamed("16-stop-during-streaming")],
    ids=["answer", "stream"],
)
def test_stopped_on_the_wire_is_not_final(outcome: Outcome) -> None:
    assert isinstance(outcome, Failed)
    assert (outcome.confirmed, outcome.code) == (False, "run_stopped")


def test_run_detail_decides_what_stopped_meant() -> None:
    assert isinstance(detailed("30e-run-detail"), Succeeded)  # the wire had said stopped [30d]
    stopped = detailed("16d-run-detail-after-stopped-stream")
    assert isinstance(stopped, Failed)
    assert (stopped.confirmed, stopped.message) == (True, "Aborted: User requested stop")


@pytest.mark.parametrize(
    "outcome",
    [
        answered("18p-human-input-blocking"),
        streamed("18-human-input-streaming"),
        streamed("18e-events-paused-snapshot"),
    ],
    ids=["answer", "stream", "snapshot"],
)
def test_paused_with_its_form(outcome: Outcome) -> None:
    assert isinstance(outcome, Paused)
    (form,) = outcome.forms
    assert isinstance(form, PausedForm)
    assert form.token is not None
    assert len(form.token) == 22
    assert (form.actions, form.inputs, form.node) == (("approve", "reject"), ("comment",), "Human")
    assert form.expires_at is not None
    assert json.loads(json.dumps(form.as_dict()))["form_token"] == form.token


def test_paused_in_run_detail_has_no_form() -> None:
    assert detailed("18b-run-detail-paused") == Paused(REF, ())


def test_running_in_run_detail() -> None:
    assert detailed("13h-run-detail-running") == Running(REF, "the server says running of it")


def test_an_error_event_after_the_start_is_running() -> None:
    events = Events(ref=REF)
    outcome = events.feed({"event": "error", "message": "gone", "status": 500})
    assert isinstance(outcome, Running)
    assert "gone" in outcome.reason


def test_the_end_of_a_stream() -> None:
    assert Events().end("cut") == Lost("cut")
    assert Events(ref=REF).end("cut") == Running(REF, "cut")
    assert isinstance(streamed("26b-worker-killed-streaming"), Running)
    assert isinstance(streamed("26a-worker-stopped-streaming"), Lost)


def test_a_stream_joined_late_is_known_by_its_first_event() -> None:
    outcome = streamed("24b-events-while-running")
    assert isinstance(outcome, Succeeded)
    assert outcome.result.ref.run_id == "e6e71c7d-22ad-453f-83ae-22bef10569ac"


# --- no run was made ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "05-missing-required-blocking",
        "05c-inputs-missing",
        "05h-required-null",
        "05i-required-wrong-type",
        "06b-input-n-abc",
        "06j-input-language-over-max-length-48-49-chars",
        "06l-input-tone-unknown-option",
        "06q-input-language-5-number-for-text",
        "06u-input-meta-json-object-given-as-a-string",
        "07-missing-user",
        "09-malformed-json",
        "09d-wrong-content-type",
        "20u-run-local-file-other-user",
        "20w-run-malformed-file-id",
        "20x-run-file-as-string",
        "20y-run-file-missing",
        "20z-run-list-too-long",
        "20zb-run-remote-url-refused",
        "20zd-run-bad-extension",
        "20ze-run-transfer-method-missing",
        "22d-lone-surrogate",
        "22m-user-with-nul",
    ],
)
def test_rejected(name: str) -> None:
    outcome = answered(name)
    assert isinstance(outcome, Rejected)
    assert outcome.http_status == recorded(name).status
    assert outcome.message == json.loads(recorded(name).body)["message"]


@pytest.mark.parametrize(
    "name",
    [
        "05h2-streaming-error-until-server-closes",
        "06-streaming-bad-number",
        "06-streaming-list-for-number",
        "06-streaming-unknown-select",
        "20v2-run-unknown-file-id-streaming",
    ],
)
def test_an_error_event_about_the_inputs_is_rejected(name: str) -> None:
    assert isinstance(streamed(name), Rejected)


def test_error_events_that_are_not_about_the_inputs() -> None:
    assert isinstance(event_refusal("Workflow not published"), Fatal)
    assert isinstance(event_refusal("Too many requests. Please try again later."), Throttled)
    quota = event_refusal("Your quota for Dify Hosted OpenAI has been exceeded.")
    assert isinstance(quota, Fatal)
    assert quota.kind == "quota"
    for unknown in ("", "(psycopg2.OperationalError) connection refused"):
        outcome = event_refusal(unknown)
        assert isinstance(outcome, Lost)
        assert not outcome.server_error


@pytest.mark.parametrize(
    "name",
    ["17-rate-limited-blocking", "17b-rate-limited-streaming", "17g-limit-1-streaming-alone", "27p-token-rate-limited"],
)
def test_throttled(name: str) -> None:
    exchange = recorded(name)
    outcome = answer_outcome(exchange.status, exchange.headers, exchange.body, retry_after=12.5)
    assert isinstance(outcome, Throttled)
    assert (outcome.retry_after, outcome.http_status) == (12.5, exchange.status)


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [
        ("03-invalid-api-key", "auth", "unauthorized"),
        ("04-missing-authorization", "auth", "unauthorized"),
        ("10-unpublished-blocking", "app", "not_published"),
        ("10b-unpublished-streaming", "app", "not_published"),
        ("11-wrong-app-mode", "app", "not_workflow_app"),
        ("12b-run-by-id-unknown", "app", "not_found"),
        ("12c-run-by-id-malformed", "app", "bad_request"),
        ("12e-run-by-id-unknown-streaming", "app", "not_found"),
        ("21d-wrong-method", "app", "method_not_allowed"),
        ("21j-api-disabled", "app", "forbidden"),
    ],
)
def test_fatal(name: str, kind: str, code: str) -> None:
    outcome = answered(name)
    assert isinstance(outcome, Fatal)
    assert (outcome.kind, outcome.code, outcome.http_status) == (kind, code, recorded(name).status)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "app_unavailable", "app"),
        (400, "provider_not_initialize", "app"),
        (400, "model_currently_not_support", "app"),
        (400, "provider_quota_exceeded", "quota"),
        (429, "rate_limit_error", "quota"),
    ],
)
def test_fatal_by_its_code(status: int, code: str, kind: str) -> None:
    outcome = refusal(Word(status, code, "text", dify=True))
    assert isinstance(outcome, Fatal)
    assert (outcome.kind, outcome.code, outcome.message) == (kind, code, "text")


def test_the_two_kinds_of_429() -> None:
    assert isinstance(refusal(Word(429, "too_many_requests", dify=True)), Throttled)
    assert isinstance(refusal(Word(429)), Throttled)


def test_a_redirect_says_where_to() -> None:
    assert answered("21a-v1-no-slash") == Unreachable(
        "something in front of Dify answers HTTP 308, a redirect to http://127.0.0.1:5001/v1/", foreign=True
    )


# --- it cannot be told -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["06g-input-n-1-list", "07f-user-long-256", "26j-redis-stopped-mid-blocking", "26n-postgres-down-blocking"],
)
def test_a_500_is_lost(name: str) -> None:
    outcome = answered(name)
    assert isinstance(outcome, Lost)
    assert (outcome.http_status, outcome.server_error) == (500, True)


@pytest.mark.parametrize(
    "message",
    [
        "queue listening stopped unexpectedly.",
        "Reached maximum retries for URL http://127.0.0.1:5080/status?c=500",  # a node's error, of a run that began
        "the model said: query is required in input form",
        "",
    ],
)
def test_another_400_may_have_begun_a_run(message: str) -> None:
    outcome = refusal(Word(400, "invalid_param", message, dify=True))
    assert isinstance(outcome, Lost)
    assert not outcome.server_error


@pytest.mark.parametrize("body", [b"", b"<html>hello</html>", b"[]", b'{"data": 3}', b'{"data": {}}', b"\xff"])
def test_a_200_without_a_run_is_lost(body: bytes) -> None:
    assert isinstance(answer_outcome(200, {}, body), Lost)


# --- look-ups ----------------------------------------------------------------------------------------------------


def test_run_detail_refused() -> None:
    assert detailed("13d-run-detail-unknown") is None
    assert isinstance(detailed("13e-run-detail-malformed"), Unreachable)
    assert isinstance(detailed("26n4-postgres-down-run-detail"), Unreachable)
    assert isinstance(detailed("03-invalid-api-key"), Fatal)
    # Not Dify's 404, so it says nothing about the run.
    assert isinstance(detailed("21-v1-root"), Unreachable)
    assert isinstance(detail_outcome(200, b"<html>", REF), Unreachable)


def test_events_refused() -> None:
    theirs = b'{"code": "not_found", "message": "Workflow run not found", "status": 404}'
    assert isinstance(follow_outcome(404, theirs, REF), Running)
    assert isinstance(follow_outcome(404, b"404 page not found", REF), Unreachable)
    assert isinstance(follow_outcome(500, b"", REF), Unreachable)
    assert isinstance(follow_outcome(403, b'{"code": "forbidden"}', REF), Fatal)
    assert isinstance(follow_outcome(403, b"", REF), Unreachable)
