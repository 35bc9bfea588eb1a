"""Every named fault, as a client sees it and as the server remembers it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from dify_batch.simulator import RUN_FAULTS, Config, Simulator
from tests.support.simhelp import client, eventually, names, parse_events, post, raw_post, stream_until

SCALED = Config(
    latency=0.01, linger_after_finish=0.02, hold_after_error=0.6, ping_interval=0.1, stop_delay=0.02, late_end=0.1
)
SILENT = 0.4  # seconds without a byte that count as silence here; longer than ping_interval
DONE = {"executed": 1, "status": "succeeded"}
NONE = {"executed": 0, "status": None}


@pytest.fixture(scope="module")
def shared() -> Iterator[Simulator]:
    with Simulator(SCALED) as simulator:
        yield simulator


@pytest.fixture
def sim(shared: Simulator) -> Iterator[Simulator]:
    yield shared
    shared.faults()


def server_says(sim: Simulator, row: str) -> dict[str, Any]:
    """How often the row was executed, and the status of its last run."""
    state = sim.state()
    runs = [run["status"] for run in state["runs"] if run["row"] == row]
    return {"executed": state["executions"].get(row, 0), "status": runs[-1] if runs else None}


def settles(sim: Simulator, row: str, expected: dict[str, Any]) -> None:
    """Waits until the server says so; a row that was not executed is looked at once nothing runs or waits."""
    eventually(
        lambda: not (s := sim.state(runs=False))["queued"] and (expected["status"] != "succeeded" or not s["running"])
    )
    eventually(lambda: server_says(sim, row) == expected)


REFUSALS: list[tuple[str, int, str, dict[str, Any]]] = [
    ("error_500", 500, "internal_server_error", NONE),
    ("error_500_run", 500, "internal_server_error", DONE),
    ("error_502", 502, "<center><h1>502", NONE),
    ("error_502_run", 502, "<center><h1>502", DONE),
    ("error_503", 503, "<center><h1>503", NONE),
    ("error_unknown", 500, '"code": "unknown"', NONE),
    ("throttle_429", 429, "too_many_requests", NONE),
    ("throttle_400", 400, "Too many requests. Please try again later.", NONE),
    ("quota", 429, "rate_limit_error", NONE),
    ("quota_provider", 400, "provider_quota_exceeded", NONE),
    ("not_initialized", 400, "provider_not_initialize", NONE),
    ("bad_key", 401, "Access token is invalid", NONE),
    ("forbidden", 403, "The app's API service has been disabled.", NONE),
    ("bad_request_unknown", 400, "queue listening stopped unexpectedly.", DONE),
]


@pytest.mark.parametrize("mode", ["blocking", "streaming"])
@pytest.mark.parametrize(("name", "status", "text", "server"), REFUSALS, ids=[r[0] for r in REFUSALS])
def test_answers_that_are_errors(
    sim: Simulator, mode: str, name: str, status: int, text: str, server: dict[str, Any]
) -> None:
    row = f"{name}-{mode}"
    sim.faults(rows={row: [name]})
    with client(sim.base_url) as http:
        response = post(http, mode, id=row)
    assert response.status_code == status
    assert text in response.text
    assert "retry-after" not in response.headers
    settles(sim, row, server)


def test_retry_after(sim: Simulator) -> None:
    sim.faults(rows={"ra": [{"name": "throttle_429", "seconds": 7}]})
    with client(sim.base_url) as http:
        assert post(http, id="ra").headers["retry-after"] == "7"


CUTS = [
    # name, mode, what of it arrives, server
    ("cut_before", "blocking", [], NONE),
    ("cut_before", "streaming", [], NONE),
    ("cut_after_accept", "blocking", [], DONE),
    ("cut_after_accept", "streaming", [], DONE),
    ("cut_after_start", "blocking", [], DONE),
    ("cut_after_start", "streaming", ["ping", "workflow_started"], DONE),
    ("cut_mid_stream", "streaming", ["ping", "workflow_started", "text_chunk", "node_started", "node_finished"], DONE),
    ("zombie_blocking", "blocking", [], {"executed": 1, "status": "running"}),
    ("zombie", "blocking", [], {"executed": 1, "status": "running"}),
    ("clean_end", "blocking", [], DONE),
]


@pytest.mark.parametrize(("name", "mode", "arrives", "server"), CUTS, ids=[f"{c[0]}-{c[1]}" for c in CUTS])
def test_cut_connections(sim: Simulator, name: str, mode: str, arrives: list[str], server: dict[str, Any]) -> None:
    row = f"{name}-{mode}-cut"
    sim.faults(rows={row: [name]})
    received, closed = raw_post(sim.base_url, mode, row)
    assert closed
    if not arrives:
        assert received == b""
    else:
        assert not received.endswith(b"0\r\n\r\n"), "a cut stream has no last chunk"
        seen = [line for line in received.decode(errors="replace").splitlines() if line.startswith(("data", "event"))]
        whole = [line for line in seen if line == "event: ping" or line.endswith("}")]
        assert [names(line + "\n\n")[0] for line in whole] == arrives
        assert len(seen) == len(whole) + (name == "cut_mid_stream"), "half an event, where it is cut in the middle"
    settles(sim, row, server)


def test_blocking_answer_cut_in_the_middle(sim: Simulator) -> None:
    sim.faults(rows={"half": ["cut_mid_stream"]})
    received, closed = raw_post(sim.base_url, "blocking", "half")
    head, _, body = received.partition(b"\r\n\r\n")
    assert closed
    assert b"200 OK" in head
    assert body.startswith(b'{"task_id"')
    assert not body.endswith(b"}}")
    settles(sim, "half", DONE)


def test_clean_end(sim: Simulator) -> None:
    sim.faults(rows={"clean": ["clean_end"]})
    received, closed = raw_post(sim.base_url, "streaming", "clean")
    assert closed
    assert received.endswith(b"0\r\n\r\n")
    assert b"workflow_started" in received
    assert b"workflow_finished" not in received
    settles(sim, "clean", DONE)


@pytest.mark.parametrize(
    ("name", "arrives", "server"),
    [
        ("silence", ["ping", "workflow_started"], DONE),
        ("silence_before_start", ["ping"], DONE),
        (
            "zombie",
            ["ping", "workflow_started", "text_chunk", "node_started", "node_finished"],
            {"executed": 1, "status": "running"},
        ),
    ],
)
def test_silence(sim: Simulator, name: str, arrives: list[str], server: dict[str, Any]) -> None:
    row = f"{name}-silent"
    sim.faults(rows={row: [name]})
    received, closed = raw_post(sim.base_url, "streaming", row, timeout=SILENT)
    assert not closed
    lines = [line for line in received.decode().splitlines() if line.startswith(("data", "event"))]
    assert names("\n\n".join(lines)) == arrives
    settles(sim, row, server)


@pytest.mark.parametrize("name", ["silence", "silence_before_start"])
def test_silence_when_blocking(sim: Simulator, name: str) -> None:
    sim.faults(rows={name: [name]})
    assert raw_post(sim.base_url, "blocking", name, timeout=SILENT) == (b"", False)
    settles(sim, name, DONE)


@pytest.mark.parametrize("mode", ["blocking", "streaming"])
@pytest.mark.parametrize(
    ("name", "wire", "error", "detail", "detail_error"),
    [
        ("failed", "failed", "Reached maximum retries", "failed", "Reached maximum retries"),
        ("partial", "partial-succeeded", None, "partial-succeeded", None),
        ("stopped", "stopped", "Stopped by user.", "stopped", "Aborted: User requested stop"),
        ("stopped_but_succeeds", "stopped", "Stopped by user.", "succeeded", None),
        ("db_down_at_end", "succeeded", None, "running", None),
        ("normal", "succeeded", None, "succeeded", None),
    ],
)
def test_endings(
    sim: Simulator, mode: str, name: str, wire: str, error: str | None, detail: str, detail_error: str | None
) -> None:
    row = f"{name}-{mode}"
    sim.faults(rows={row: [name]})
    with client(sim.base_url) as http:
        response = post(http, mode, id=row)
        told = (response.json() if mode == "blocking" else parse_events(response.text)[-1])["data"]
        assert told["status"] == wire
        assert (told["error"] or "").startswith(error or "")
        assert (told["error"] is None) == (error is None)
        assert told["outputs"] == ({"answer": "Echo: hello"} if wire.endswith("succeeded") else {})
        path = f"/workflows/run/{told['id']}"
        stored = eventually(lambda: (d := http.get(path).json())["status"] == detail and d)
        log = http.get("/workflows/logs", params={"keyword": told["id"]}).json()["data"][0]["workflow_run"]
    assert (stored["error"] or "").startswith(detail_error or "")
    assert stored["outputs"] == ({"answer": "Echo: hello"} if detail.endswith("succeeded") else {})
    assert (log["status"], log["exceptions_count"]) == (detail, int(name in ("failed", "partial")))
    assert (stored["finished_at"] is None) == (detail == "running")


@pytest.mark.parametrize("mode", ["blocking", "streaming"])
def test_paused_and_submitted_over_the_control(sim: Simulator, mode: str) -> None:
    row = f"pause-{mode}"
    sim.faults(rows={row: ["paused"]})
    with client(sim.base_url) as http:
        response = post(http, mode, id=row)
        told = (response.json() if mode == "blocking" else parse_events(response.text)[-1])["data"]
        assert told["status"] == "paused"
        assert told["reasons"][0]["form_token"]
        run_id = response.json()["workflow_run_id"] if mode == "blocking" else told["workflow_run_id"]
        sim.submit_form(run_id)
        done = eventually(lambda: (d := http.get(f"/workflows/run/{run_id}").json())["finished_at"] and d)
    assert (done["status"], done["outputs"]) == ("succeeded", {"answer": "Echo: hello"})
    with pytest.raises(ValueError, match="is not paused"):
        sim.submit_form(run_id)


def test_rejected(sim: Simulator) -> None:
    sim.faults(rows={"rej": ["rejected", "rejected"]})
    with client(sim.base_url) as http:
        blocking = post(http, id="rej")
        streaming = post(http, "streaming", id="rej")
    assert (blocking.status_code, blocking.json()["code"]) == (400, "invalid_param")
    assert names(streaming.text) == ["ping", "error"]
    assert parse_events(streaming.text)[1]["message"] == blocking.json()["message"] == "query is required in input form"
    assert server_says(sim, "rej") == NONE


def test_error_event_after_start(sim: Simulator) -> None:
    sim.faults(rows={"err": ["error_event_after_start", "error_event_after_start"]})
    with client(sim.base_url) as http:
        assert names(post(http, "streaming", id="err").text) == ["ping", "workflow_started", "error"]
        assert post(http, id="err").status_code == 500
    settles(sim, "err", {"executed": 2, "status": "succeeded"})


def test_slow_queue(sim: Simulator) -> None:
    sim.faults(rows={"late": [{"name": "slow_queue", "seconds": 0.1}]})
    with client(sim.base_url) as http:
        seen: list[str] = []
        body = {"inputs": {"query": "x", "id": "late"}, "response_mode": "streaming", "user": "late"}
        with http.stream("POST", "/workflows/run", json=body) as response:
            for part in response.iter_text():
                if not seen:
                    assert http.get("/workflows/logs?created_by_end_user_session_id=late").json()["total"] == 0
                seen += names(part)
    assert seen[:2] == ["ping", "workflow_started"]
    assert seen[-1] == "workflow_finished"


def test_slow_answer(sim: Simulator) -> None:
    sim.faults(rows={"slow": [{"name": "slow_answer", "seconds": 30}]})
    with client(sim.base_url) as http, pytest.raises(httpx.ReadTimeout):
        http.post("/workflows/run", json={"inputs": {"query": "x", "id": "slow"}, "user": "u"}, timeout=0.1)
    settles(sim, "slow", DONE)  # the run is over though the answer has not come


def test_latency_of_one_row(sim: Simulator) -> None:
    sim.faults(rows={"tired": [{"latency": 0.25}]})
    with client(sim.base_url) as http:
        assert post(http, id="tired").json()["data"]["elapsed_time"] >= 0.25


def test_big_event(sim: Simulator) -> None:
    sim.faults(rows={"big": ["big_event"]})
    with client(sim.base_url) as http:
        text = post(http, "streaming", id="big").text
        events = parse_events(text)
        biggest = max((e for e in events if e["event"] == "node_finished"), key=lambda e: len(json.dumps(e)))
        assert len(json.dumps(biggest)) > 3_000_000
        outputs = http.get(f"/workflows/run/{events[-1]['workflow_run_id']}").json()["outputs"]
    assert outputs == events[-1]["data"]["outputs"] == {"answer": "x" * 1_000_000}


def test_unknown_event(sim: Simulator) -> None:
    sim.faults(rows={"odd": ["unknown_event", "unknown_event"]})
    with client(sim.base_url) as http:
        events = parse_events(post(http, "streaming", id="odd").text)
        blocking = post(http, id="odd").json()
    assert {"agent_dream", "workflow_finished"} <= {e["event"] for e in events}
    assert "brand_new" in events[-1]
    assert blocking["data"]["status"] == "succeeded"
    assert "brand_new" in blocking


def test_split_utf8(sim: Simulator) -> None:
    sim.faults(rows={"split": ["split_utf8"]})
    received, _ = raw_post(sim.base_url, "streaming", "split")
    body = received.partition(b"\r\n\r\n")[2]
    chunks, whole = [], b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        chunks.append(rest[: int(size, 16)])
        body = rest[int(size, 16) + 2 :]
    whole = b"".join(chunks)
    assert any(chunk and chunk[-1] >= 0xC0 for chunk in chunks), "no chunk ends inside a character"
    assert parse_events(whole.decode())[-1]["data"]["outputs"] == {"answer": "Echo: héé 日本"}


def test_a_list_is_used_up_one_for_each_post(sim: Simulator) -> None:
    sim.faults(rows={"many": ["error_500", "normal", "error_502"]}, all="error_503")
    with client(sim.base_url) as http:
        assert [post(http, id="many").status_code for _ in range(4)] == [500, 200, 502, 200]
        assert post(http, id="other").status_code == 503
    assert sim.state()["posts"]["many"] == 4
    assert server_says(sim, "many")["executed"] == 2


def test_a_mix_is_the_same_every_time(sim: Simulator) -> None:
    def statuses() -> list[int]:
        sim.reset()
        sim.faults(mix={"error_500": 0.3, "error_502": 0.3}, seed=7)
        with client(sim.base_url) as http:
            return [post(http, id=str(n % 10)).status_code for n in range(30)]

    first = statuses()
    assert set(first) == {200, 500, 502}
    assert statuses() == first


def test_every_fault_is_shown_here() -> None:
    shown = {r[0] for r in REFUSALS} | {c[0] for c in CUTS} | {
        "silence", "silence_before_start", "zombie", "failed", "partial", "stopped", "stopped_but_succeeds",
        "db_down_at_end", "normal", "paused", "rejected", "error_event_after_start", "slow_queue", "slow_answer",
        "big_event", "unknown_event", "split_utf8",
    }  # fmt: skip
    assert shown == set(RUN_FAULTS)


def test_a_client_that_leaves_changes_nothing(sim: Simulator) -> None:
    sim.faults(rows={"gone": [{"latency": 0.2}]})
    with client(sim.base_url) as http:
        stream_until(http, "workflow_started", id="gone")
    settles(sim, "gone", DONE)
