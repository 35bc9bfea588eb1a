"""Chatflows, chats, agents and completions, field by field against the recorded exchanges with a real Dify."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from dify_batch.simulator import Config, Simulator
from tests.support.simhelp import client, load, normal, parse_events, recorded_stream

SCALED = Config(latency=0, linger_after_finish=0.02, hold_after_error=0.1, ping_interval=5, stop_delay=0.01)
CF1, CF3, CF5, CF7, CH1, CP1, AG1 = (f"app-{name}" for name in ("cf1", "cf3", "cf5", "cf7", "ch1", "cp1", "ag1"))
MEASURED = {
    "latency", "time_to_first_token", "time_to_generate", "prompt_tokens", "completion_tokens", "total_tokens",
    "prompt_price", "completion_price", "total_price", "elapsed_time", "updated_at", "description", "author_name",
}  # fmt: skip

STATELESS = {
    CF1: """
        31a-chatflow-blocking 31l-chatflow-a-missing-required-input 31l-chatflow-b-inputs-missing
        31l-chatflow-b3-inputs-list 31l-chatflow-c-wrong-response-mode 31l-chatflow-d-user-missing
        31l-chatflow-h-query-missing 31l-chatflow-h2-query-empty 31l-chatflow-h4-query-number
        31l-chatflow-h5-query-null 31l-chatflow-i-conversation-unknown 31l-chatflow-i3-conversation-malformed
        31m1-workflow-run-with-chatflow-key 31m2-completion-with-chatflow-key 31n3-workflow-id-unknown
        31n4-workflow-id-malformed 31o2-info 31c-chatflow-lookups-of-a-finished-run-3-logs
    """,
    "app-echo": "31m3-chat-with-workflow-key",
    CF5: "31r1-llm-blocking",
    CF7: "31n1-unpublished-blocking",
    CH1: """
        32a-chat-blocking 32b-chat-streaming 32l-chat-a-missing-required-input
        32l-chat-a2-missing-required-input-streaming 32l-chat-h2-query-empty 32l-chat-h3-query-empty-streaming
        32l-chat-i-conversation-unknown 32m6-workflow-run-with-chat-key 32m7-run-detail-with-chat-key
        32m8-logs-with-chat-key 32o1-parameters 32s-model-error-ratelimit-blocking
        32s-model-error-ratelimit-streaming 32s-model-error-mid-blocking 32s-model-error-mid-streaming
        32u3-stop-unknown-task 32u4-stop-no-user 32w-conversations-limit-0 32w-conversations-limit-101
        32w-conversations-no-user 32w-messages-no-conversation 32w-messages-no-user 33m4-completion-with-chat-key
        33u2-stop-on-the-wrong-path
    """,
    CP1: """
        33a-completion-blocking 33b-completion-streaming
        33c-completion-lookups-of-a-finished-message-1-conversations
        33c-completion-lookups-of-a-finished-message-6d-feedback-unknown-message
        33l-completion-a-missing-required-input 33l-completion-b-inputs-missing 33m5-chat-with-completion-key
        33o1-parameters
    """,
    AG1: """34a-agent-blocking 34b-agent-streaming-with-tool 34l-agent-h2-query-empty 34o1-parameters
        34s-model-error-mid-streaming""",
}


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    with Simulator(SCALED) as simulator:
        yield simulator


def loose(value: Any, key: str = "") -> Any:
    """Like `normal`, and only the type of what a model or a clock measures."""
    if isinstance(value, dict):
        return [(k, loose(v, k)) for k, v in value.items()]
    if isinstance(value, list):
        return [loose(v) for v in value]
    return "measured" if key in MEASURED else normal(value, key)


def send(sim: Simulator, exchange: dict[str, Any], key: str) -> httpx.Response:
    """The recorded request, with this key."""
    request = exchange["request"]
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    content = None if request["body"] is None else request["body"].encode()
    url = sim.base_url.removesuffix("/v1") + request["path"]
    with httpx.Client(trust_env=False, verify=False, timeout=5) as http:
        return http.request(request["method"], url, content=content, headers=headers)


def events_of(text: str) -> list[Any]:
    """The data events in their order, loosely."""
    return [loose(event) for event in parse_events(text) if event["event"] != "ping"]


def compare(response: httpx.Response, exchange: dict[str, Any]) -> None:
    recorded = exchange["response"]
    assert response.status_code == recorded["status"]
    headers = {name.lower(): value for name, value in recorded["headers"].items()}
    assert response.headers["content-type"] == headers["content-type"]
    if recorded.get("sse") is not None:
        assert events_of(response.text) == events_of(recorded_stream(exchange))
        assert response.text.startswith("event: ping") == recorded_stream(exchange).startswith("event: ping")
    else:
        assert loose(response.json()) == loose(json.loads(recorded["body"]))


@pytest.mark.parametrize(("key", "name"), [(key, n) for key, ns in STATELESS.items() for n in ns.split()])
def test_answers_as_recorded(sim: Simulator, key: str, name: str) -> None:
    exchange = load(name)
    compare(send(sim, exchange, key), exchange)


def test_parameters_of_a_chatflow(sim: Simulator) -> None:
    exchange = load("31o1-parameters")
    recorded, told = json.loads(exchange["response"]["body"]), send(sim, exchange, CF1).json()
    assert set(recorded) == set(told)

    def form(answer: dict[str, Any]) -> list[Any]:
        return [
            (kind, sorted(field.items(), key=str))
            for entry in answer["user_input_form"]
            for kind, field in entry.items()
        ]

    assert form(told) == form(recorded)


def without_the_call(events: list[dict[str, Any]]) -> list[Any]:
    """The upstream service that was called when it was recorded is not told."""
    for event in events:
        if event["event"] == "node_finished" and event["data"]["node_type"] in ("http-request", "llm"):
            for name in ("process_data", "outputs", "inputs"):
                event["data"][name] = None
            if event["data"]["execution_metadata"]:
                event["data"]["execution_metadata"] = sorted(event["data"]["execution_metadata"])
    return [loose(event) for event in events if event["event"] != "ping"]


@pytest.mark.parametrize(("key", "name"), [(CF1, "31b-chatflow-streaming"), (CF5, "31r2-llm-streaming")])
def test_a_chatflows_stream(sim: Simulator, key: str, name: str) -> None:
    exchange = load(name)
    answer = send(sim, exchange, key)
    assert answer.text.startswith("event: ping\n\n")
    told, recorded = parse_events(answer.text), parse_events(recorded_stream(exchange))
    assert without_the_call(told) == without_the_call(recorded)


@pytest.mark.parametrize(
    "name", ["31l-chatflow-a2-missing-required-input-streaming", "31l-chatflow-h3-query-empty-streaming"]
)
def test_a_refused_chatflow_stream_says_nothing(sim: Simulator, name: str) -> None:
    before = sim.state(runs=False)["executions"]
    answer = send(sim, load(name), CF1)
    assert (answer.status_code, answer.text) == (200, "event: ping\n\n")
    assert sim.state(runs=False)["executions"] == before


def failing(sim: Simulator, exchange: dict[str, Any]) -> httpx.Response:
    sim.faults(all="failed")
    try:
        return send(sim, exchange, CF1)
    finally:
        sim.faults()


def test_a_failing_chatflow(sim: Simulator) -> None:
    exchange = load("31k-1-failing-blocking")
    answer, recorded = failing(sim, exchange), json.loads(exchange["response"]["body"])
    assert (answer.status_code, list(answer.json())) == (400, list(recorded))
    assert answer.json()["code"] == recorded["code"] == "invalid_param"
    assert answer.json()["message"].startswith("Run failed: ")
    exchange = load("31k-2-failing-streaming")
    told, want = parse_events(failing(sim, exchange).text), parse_events(recorded_stream(exchange))
    assert [event["event"] for event in told if event["event"] != "message"] == [
        event["event"] for event in want if event["event"] != "message"
    ]
    for event in (told[-1], want[-1]):
        event["data"]["error"] = "a text"
    assert loose(told[-1]) == loose(want[-1])


def asked(sim: Simulator, key: str, path: str, **params: str) -> Any:
    with client(sim.base_url, key) as http:
        return http.get(path, params=params).json()


def look_up(sim: Simulator, key: str, post: str, conversations: str | None, messages: str) -> dict[str, Any]:
    """Sends a recorded POST, compares what conversations and messages tell then, and gives the message."""
    exchange = load(post)
    user = json.loads(exchange["request"]["body"])["user"]
    send(sim, exchange, key)
    talks = asked(sim, key, "/conversations", user=user, limit="1")
    talks |= {"limit": 20, "has_more": False}
    conversation = talks["data"][0]["id"]
    told = asked(sim, key, "/messages", user=user, conversation_id=conversation)
    wanted = json.loads(load(messages)["response"]["body"])
    question = json.loads(exchange["request"]["body"])
    for row in wanted["data"]:
        row["query"], row["inputs"] = question["query"], told["data"][0]["inputs"]
    if conversations is not None:
        want = json.loads(load(conversations)["response"]["body"])
        want["data"][0] |= {"name": question["query"], "inputs": talks["data"][0]["inputs"]}
        assert loose(talks) == loose(want)
    for page in (told, wanted):
        page["data"][0].pop("answer")
    assert loose(told) == loose(wanted)
    answered: dict[str, Any] = asked(sim, key, "/messages", user=user, conversation_id=conversation)["data"][0]
    return answered


def test_look_ups_of_a_chatflow(sim: Simulator) -> None:
    name = "31c-chatflow-lookups-of-a-finished-run-"
    row = look_up(sim, CF1, "31a-chatflow-blocking", f"{name}1-conversations", f"{name}2-messages")
    assert row["answer"] == "Q=hello T=cats R=slept 1"
    sim.faults(all="failed")
    failed = load("31k-1-failing-blocking")
    send(sim, failed, CF1)
    sim.faults()
    user = json.loads(failed["request"]["body"])["user"]
    talk = asked(sim, CF1, "/conversations", user=user)["data"][0]["id"]
    row = asked(sim, CF1, "/messages", user=user, conversation_id=talk)["data"][0]
    want = json.loads(load("31k-1-failing-blocking-after-2-messages")["response"]["body"])["data"][0]
    row["inputs"] = want["inputs"]
    row["error"] = row["error"][:12] + want["error"][12:]
    assert loose(row) == loose(want)


def test_look_ups_of_a_chat_and_of_an_agent(sim: Simulator) -> None:
    name = "32c-chat-lookups-of-a-finished-message-"
    row = look_up(sim, CH1, "32a-chat-blocking", f"{name}1-conversations", f"{name}2-messages")
    assert row["answer"] == "w1 w2 w3", "stored without blanks at its ends (dify-wire 32af)"
    row = look_up(sim, AG1, "34b-agent-streaming-with-tool", None, "34c-agent-lookups-of-a-finished-message-2-messages")
    assert row["answer"] == "Let me look. \nw1 w2 w3"


def test_a_chat_that_is_stopped(sim: Simulator) -> None:
    exchange = load("32u1-stop-1-post")
    body = json.loads(exchange["request"]["body"]) | {"query": "q @n=12 @gap=0.2"}
    text = ""
    with client(sim.base_url, CH1) as http, http.stream("POST", "/chat-messages", json=body) as response:
        for part in response.iter_text():
            text += part
            if text.count('"event":"message"') == 4:
                task = parse_events(text)[0]["task_id"]
                with client(sim.base_url, CH1) as other:
                    for user in ("somebody else", body["user"]):
                        stop = other.post(f"/chat-messages/{task}/stop", json={"user": user})
                        assert stop.json() == {"result": "success"}
    told, recorded = events_of(text), events_of(recorded_stream(exchange))
    assert told == recorded
    usage = parse_events(text)[-1]["metadata"]["usage"]
    assert (usage["total_tokens"], usage["total_price"]) == (0, "0E-7")


@pytest.mark.parametrize(
    ("key", "name", "fault"),
    [
        (CF1, "31t1-input-refused-by-moderation-streaming", "moderated"),
        (CF1, "31t2-input-refused-by-moderation-blocking", "moderated"),
        (CH1, "32t1-input-refused-by-moderation-blocking", "moderated"),
        (CH1, "32t2-output-replaced-by-moderation-streaming", "replaced"),
    ],
)
def test_moderation(sim: Simulator, key: str, name: str, fault: str) -> None:
    exchange = load(name)
    exchange["request"]["body"] = exchange["request"]["body"].replace(" @gap=0.6", "")
    sim.faults(all=fault)
    try:
        compare(send(sim, exchange, key), exchange)
    finally:
        sim.faults()


@pytest.mark.parametrize(("name", "mode"), [("31p1-pause-streaming", "streaming"), ("31p2-pause-blocking", "blocking")])
def test_a_chatflow_that_pauses(sim: Simulator, name: str, mode: str) -> None:
    exchange = load(name)
    answer = send(sim, exchange, CF3)
    if mode == "streaming":
        told, want = parse_events(answer.text), parse_events(recorded_stream(exchange))
        assert [event["event"] for event in told] == [event["event"] for event in want]
        assert [list(event) for event in told] == [list(event) for event in want]
        assert list(told[-1]["data"]) == list(want[-1]["data"])
        reason = told[-1]["data"]["reasons"][0]
    else:
        told_body, want_body = answer.json(), json.loads(exchange["response"]["body"])
        assert list(told_body) == list(want_body)
        assert list(told_body["data"]) == list(want_body["data"])
        assert told_body["event"] == want_body["event"] == "workflow_paused"
        reason = told_body["data"]["reasons"][0]
    user = json.loads(exchange["request"]["body"])["user"]
    talk = asked(sim, CF3, "/conversations", user=user)["data"][0]["id"]
    row = asked(sim, CF3, "/messages", user=user, conversation_id=talk)["data"][0]
    assert row["status"] == ("paused" if mode == "streaming" else "normal")
    assert row["extra_contents"][0]["form_definition"]["form_token"] == reason["form_token"]
