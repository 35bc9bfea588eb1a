"""Field by field against the recorded exchanges with a real Dify."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from dify_batch.simulator import Config, Simulator
from tests.support.simhelp import (
    HEADERS,
    WIRE,
    client,
    eventually,
    load,
    normal,
    normal_body,
    normal_stream,
    parse_events,
    post,
    recorded_stream,
    stream_until,
)

SCALED = Config(latency=0, linger_after_finish=0.02, hold_after_error=0.05, ping_interval=0.2, snapshot_delay=0.02)
ECHO, HUMAN, FILES = "app-echo", "app-human", "app-files"

STATELESS = {
    ECHO: """
        01-blocking-success 01b-blocking-success-optional-left-out 02-streaming-success
        05-missing-required-blocking 05b-missing-required-streaming 05c-inputs-missing 05e-inputs-list
        05g-required-empty-string 05i-required-wrong-type 06b-input-n-abc
        06c-input-n-optional-number-empty-string 06e-input-n-1-5 06g-input-n-1-list 06i-input-n-23-digit-integer
        06j-input-language-over-max-length-48-49-chars 06l-input-tone-unknown-option 06n-input-extra-unknown-input
        06s-input-flag-maybe 06u-input-meta-json-object-given-as-a-string 06-streaming-list-for-number
        07-missing-user 07f-user-long-256 08-bad-response-mode 09-malformed-json 09c-json-array
        09d-wrong-content-type 09h-nan 12b-run-by-id-unknown 12c-run-by-id-malformed 13d-run-detail-unknown
        13e-run-detail-malformed 14l-logs-status-bogus 14r-logs-created-after-plus-unescaped
        14t-logs-created-after-epoch 14u-logs-created-after-garbage 14x-logs-limit-101 14x-logs-limit-abc
        14z-logs-unknown-user 14za-logs-created-by-account-unknown 16h-stop-unknown-task 16j-stop-without-user
        19-info-W1 19-parameters-W1 21b-unknown-path 21d-wrong-method 22-unicode 22b-nul 22d-lone-surrogate
        22m-user-with-nul 24g-events-no-user 24j-events-unknown-run 24k-events-malformed-run
    """,
    "app-nobody": "03-invalid-api-key 04-missing-authorization 04b-wrong-auth-scheme",
    "app-unpublished": "10b-unpublished-streaming 19c-parameters-W6-unpublished",
    "app-chat": "11-wrong-app-mode 19d-parameters-W7-chatflow",
    "app-disabled": "21j-api-disabled",
    FILES: """19b-parameters-W5 20-upload-text 20d-upload-no-file 20g-upload-no-mimetype
        20o-upload-path-in-name""",
    HUMAN: "18h2-form-get-unknown",
}


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    with Simulator(SCALED) as simulator:
        yield simulator


def send(sim: Simulator, exchange: dict[str, Any], key: str, path: str | None = None) -> httpx.Response:
    """The recorded request, with this key."""
    request = exchange["request"]
    headers = {k: v for k, v in request["headers"].items() if k in ("Content-Type", "Authorization")}
    if "REDACTED" in headers.get("Authorization", ""):
        headers["Authorization"] = f"Bearer {key}"
    body = request["body"]
    url = sim.base_url.removesuffix("/v1") + (path or request["path"])
    with httpx.Client(trust_env=False, verify=False, timeout=5) as http:
        content = None if body is None else body.encode()
        return http.request(request["method"], url, content=content, headers=headers)


def compare(response: httpx.Response, exchange: dict[str, Any]) -> None:
    """Status, the headers that matter, and the body."""
    recorded = exchange["response"]
    assert response.status_code == recorded["status"]
    lowered = {name.lower(): value for name, value in recorded["headers"].items()}
    assert {h: response.headers.get(h) for h in HEADERS} == {h: lowered.get(h) for h in HEADERS}
    if recorded.get("sse") is not None:
        assert "content-length" not in response.headers
        assert normal_stream(response.text) == normal_stream(recorded_stream(exchange))
    else:
        assert normal_body(response.text) == normal_body(recorded["body"])


# Whatever else is recorded of single inputs; of files all but those that need a server to fetch from.
INPUTS = sorted({path.stem for path in WIRE.glob("06*.json")} - set(STATELESS[ECHO].split()))
WITH_FILE = sorted(path.stem for path in WIRE.glob("20[u-z]*.json") if not path.stem.startswith(("20zb", "20zc")))
RECORDED_FILE, RECORDED_AGAIN = "3fc91886-2cd0-4f03-bd00-94bb7bc0b6bb", "77449879-7cb9-4e22-9b77-9811b604c641"


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_as_recorded(sim: Simulator, name: str) -> None:
    exchange = load(name)
    compare(send(sim, exchange, ECHO), exchange)


@pytest.mark.parametrize("name", ["20r-run-local-file", *WITH_FILE])
def test_files_as_recorded(sim: Simulator, name: str) -> None:
    uploaded = send(sim, load("20-upload-text"), FILES).json()["id"]
    exchange = load(name)
    body = exchange["request"]["body"].replace(RECORDED_FILE, uploaded).replace(RECORDED_AGAIN, uploaded)
    exchange["request"]["body"] = body
    compare(send(sim, exchange, FILES), exchange)


@pytest.mark.parametrize(("key", "name"), [(key, n) for key, ns in STATELESS.items() for n in ns.split()])
def test_answers_as_recorded(sim: Simulator, key: str, name: str) -> None:
    exchange = load(name)
    compare(send(sim, exchange, key), exchange)


def test_run_detail_and_log_of_an_ended_run(sim: Simulator) -> None:
    with client(sim.base_url, ECHO) as http:
        run = post(http, user="user-detail", query="detail").json()
        detail = load("13-run-detail-succeeded")
        compare(send(sim, detail, ECHO, f"/v1/workflows/run/{run['workflow_run_id']}"), detail)
        log = http.get("/workflows/logs?created_by_end_user_session_id=user-detail").json()
    recorded = json.loads(load("14d-logs-after-blocking-by-user")["response"]["body"])
    recorded["data"][0]["created_by_end_user"]["session_id"] = "user-detail"
    recorded["data"][0]["workflow_run"]["total_steps"] = 2  # another app was recorded
    assert normal(log) == normal(recorded)


def test_run_detail_and_log_of_a_running_run(sim: Simulator) -> None:
    sim.faults(rows={"z": ["zombie"]})
    with client(sim.base_url, ECHO) as http:
        text = stream_until(http, "node_finished", user="user-running", query="x", id="z")
        run_id = parse_events(text)[1]["workflow_run_id"]
        detail = http.get(f"/workflows/run/{run_id}").json()
        log = http.get("/workflows/logs?created_by_end_user_session_id=user-running").json()
    recorded = json.loads(load("13h-run-detail-running")["response"]["body"])
    del detail["inputs"], recorded["inputs"]  # another app was recorded
    assert normal(detail) == normal(recorded)
    assert normal(log) == normal(json.loads(load("14-logs-while-running-by-user")["response"]["body"]))


def test_failed_and_partial_runs(sim: Simulator) -> None:
    sim.faults(rows={"f": ["failed", "failed"], "p": ["partial"]})
    with client(sim.base_url) as http:
        failed = post(http, id="f").json()
        streamed = parse_events(stream_until(http, "workflow_finished", user="batch-1", id="f"))
        partial = post(http, id="p").json()
    recorded = json.loads(load("15-failed-blocking")["response"]["body"])
    recorded["data"]["total_steps"] = 2
    assert normal(failed) == normal(recorded)
    last = parse_events(recorded_stream(load("15c-failed-streaming")))
    assert normal(streamed[-1]) == normal(last[-1])
    assert streamed[-2]["event"] == last[-2]["event"] == "node_finished"
    got, want = streamed[-2]["data"], last[-2]["data"]
    assert list(got) == list(want)
    told = ("outputs", "status", "error", "execution_metadata", "files")
    assert {name: got[name] for name in told} | {"error": ""} == {name: want[name] for name in told} | {"error": ""}
    assert got["error"] == streamed[-1]["data"]["error"]
    recorded = json.loads(load("15d-partial-succeeded-default-value-blocking")["response"]["body"])
    recorded["data"]["outputs"] = {"answer": "Echo: hello"}
    assert (partial["data"].pop("total_tokens"), recorded["data"].pop("total_tokens")) == (15, 0)
    assert normal(partial) == normal(recorded)


def test_a_stopped_run(sim: Simulator) -> None:
    sim.faults()
    sim.configure(latency=30, stop_delay=0.02)
    try:
        with client(sim.base_url) as http, client(sim.base_url, ECHO) as other:
            body = {"inputs": {"query": "x"}, "response_mode": "streaming", "user": "stop-user"}
            text = ""
            with http.stream("POST", "/workflows/run", json=body) as response:
                for part in response.iter_text():
                    text += part
                    if '"node_id":"llm"' in part:
                        task = parse_events(text)[1]["task_id"]
                        other.post(f"/workflows/tasks/{task}/stop", json={"user": "someone-else"})
            finished = parse_events(text)[-1]
            recorded = parse_events(recorded_stream(load("16-stop-during-streaming")))[-1]
            assert normal(finished) == normal(recorded)
            path = f"/workflows/run/{finished['workflow_run_id']}"
            detail = eventually(lambda: (d := http.get(path).json())["status"] == "stopped" and d)
    finally:
        sim.configure(latency=0)
    stored = json.loads(load("16d-run-detail-after-stopped-stream")["response"]["body"])
    del detail["inputs"], stored["inputs"]
    assert normal(detail) == normal(stored)


def test_too_many_requests(sim: Simulator) -> None:
    sim.configure(max_active_requests=2)
    sim.faults(rows={"slow": [{"latency": 30}] * 2})
    exchange = load("17-rate-limited-blocking")
    try:
        with client(sim.base_url, ECHO) as http:
            for _ in range(2):
                with pytest.raises(httpx.ReadTimeout):  # the run keeps its slot (dify-wire 17i)
                    http.post(
                        "/workflows/run",
                        json={"inputs": {"query": "x", "id": "slow"}, "user": "u"},
                        timeout=0.3,
                    )
        compare(send(sim, exchange, ECHO), exchange)
    finally:
        for run in sim.state()["runs"]:
            if run["row"] == "slow":
                with client(sim.base_url) as http:
                    http.post(f"/workflows/tasks/{run['task_id']}/stop", json={"user": "u"})
        sim.configure(max_active_requests=None)


def test_human_input_from_pause_to_end(sim: Simulator) -> None:
    exchange = load("18-human-input-streaming")
    answer = send(sim, exchange, HUMAN)
    compare(answer, exchange)
    paused = parse_events(answer.text)[-2]
    run_id, token = paused["workflow_run_id"], paused["data"]["form_token"]

    def again(name: str, path: str) -> httpx.Response:
        recorded = load(name)
        response = send(sim, recorded, HUMAN, path)
        compare(response, recorded)
        return response

    again("18b-run-detail-paused", f"/v1/workflows/run/{run_id}")
    again("18c-logs-paused", "/v1/workflows/logs?created_by_end_user_session_id=human-user")
    events = f"/v1/workflow/{run_id}/events?user=human-user"
    again("18e-events-paused-snapshot", f"{events}&include_state_snapshot=true")
    form = f"/v1/form/human_input/{token}"
    for name in ("18h-form-get", "18i-form-submit-unknown-action", "18j-form-submit-missing-input"):
        again(name, form)
    recorded = load("18g2-events-across-resume-plain")
    text = ""
    with client(sim.base_url.removesuffix("/v1"), HUMAN) as http, http.stream("GET", events) as response:
        for part in response.iter_text():
            if not text:
                again("18k-form-submit", form)
            text += part
    while text.startswith("event: ping\n\nevent: ping\n\n"):
        text = text.removeprefix("event: ping\n\n")  # as many as the test took time
    assert normal_stream(text) == normal_stream(recorded_stream(recorded))
    again("18l-run-detail-after-resume", f"/v1/workflows/run/{run_id}")
    again("18m-form-submit-twice", form)
    again("18o-events-after-finish", events)
    blocking = load("18p-human-input-blocking")
    compare(send(sim, blocking, HUMAN), blocking)


def test_outage_of_the_database(sim: Simulator) -> None:
    sim.faults(all="outage_500")
    exchange = load("26n-postgres-down-blocking")
    try:
        compare(send(sim, exchange, ECHO), exchange)
        health = httpx.get(sim.base_url.replace("/v1", "/health"), trust_env=False, verify=False)
        assert (health.status_code, list(health.json())) == (200, ["pid", "status", "version"])
    finally:
        sim.faults()
