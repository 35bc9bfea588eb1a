"""What is told of a run can be odd, though the run went well: times, numbers, words, streams, endless answers."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from dify_batch.simulator import Config, Simulator
from dify_batch.simulator.faults import ODD_FAULTS
from dify_batch.simulator.oddities import STATUS
from tests.support.simhelp import client, eventually, names, parse_events, post, raw_post

FAST = Config(latency=0.01, linger_after_finish=0.02, hold_after_error=0.5, ping_interval=0.1, workers=None)


@pytest.fixture(scope="module")
def shared() -> Iterator[Simulator]:
    with Simulator(FAST) as simulator:
        yield simulator


@pytest.fixture
def sim(shared: Simulator) -> Iterator[Simulator]:
    yield shared
    shared.faults()
    shared.configure(clock_skew=0.0)


def told(sim: Simulator, name: str, key: str = "app-demo", **fault: Any) -> dict[str, Any]:
    """A run with that fault, as it is told by stream, answer, run detail, events and log."""
    sim.faults(all={"name": name, **fault})
    with client(sim.base_url, key) as http:
        streamed = parse_events(post(http, "streaming").text)
        answer = json.loads(post(http).text)
        run_id = answer["workflow_run_id"]
        detail = http.get(f"/workflows/run/{run_id}")
        events = http.get(f"/workflow/{run_id}/events?user=u")
        log = http.get("/workflows/logs", params={"keyword": run_id}).json()["data"][0]["workflow_run"]
    return {
        "stream": streamed,
        "finish": streamed[-1]["data"],
        "answer": answer["data"],
        "detail": detail.json(),
        "events": parse_events(events.text)[-1].get("data") if events.status_code == 200 else events.status_code,
        "log": log,
    }


@pytest.mark.parametrize(
    ("name", "is_odd"),
    [
        ("time_ms", lambda at: 1e12 < at < 1e13),
        ("time_ns", lambda at: at > 1e18),
        ("time_negative", lambda at: at < -1e9),
        ("time_text", lambda at: isinstance(at, str)),
        ("time_list", lambda at: isinstance(at, list)),
    ],
)
def test_times(sim: Simulator, name: str, is_odd: Any) -> None:
    run = told(sim, name)
    for where in ("finish", "answer", "detail", "events", "log"):
        assert is_odd(run[where]["finished_at"]), where
        assert isinstance(run[where]["created_at"], int)
    with client(sim.base_url, "app-human") as http:
        reason = parse_events(post(http, "streaming").text)[-1]["data"]["reasons"][0]
        assert is_odd(reason["expiration_time"])
        assert is_odd(post(http).json()["data"]["reasons"][0]["expiration_time"])
        assert is_odd(http.get(f"/form/human_input/{reason['form_token']}").json()["expiration_time"])


def test_numbers_that_are_no_json(sim: Simulator) -> None:
    nan = told(sim, "outputs_nan")
    for where in ("finish", "answer", "detail", "events"):
        assert math.isnan(nan[where]["outputs"]["number"]), where
        assert nan[where]["outputs"]["numbers"] == [1, -math.inf]
    sim.faults(all="outputs_1e400")
    with client(sim.base_url) as http:
        assert '"number": 1e400, "numbers": [1, -1e400]' in post(http).text
        assert '"number":1e400,"numbers":[1,-1e400]' in post(http, "streaming").text


def test_line_separators(sim: Simulator) -> None:
    run = told(sim, "outputs_separators")
    for where in ("finish", "answer", "detail", "events"):
        assert run[where]["outputs"]["text"] == "next\x85line\u2028para\u2029graph", where
    with client(sim.base_url) as http:
        assert "\u2028" in post(http, "streaming").text  # as it is, not escaped


def test_a_status_that_nobody_knows(sim: Simulator) -> None:
    run = told(sim, "unknown_status")
    assert {run[where]["status"] for where in ("finish", "answer", "detail", "events", "log")} == {STATUS}
    assert run["detail"]["finished_at"]
    assert {row["status"] for row in sim.ledger()[-2:]} == {"succeeded"}


def test_every_run_fails_at_once_with_the_providers_limit(sim: Simulator) -> None:
    sim.configure(latency=30)
    try:
        run = told(sim, "rate_limited")
    finally:
        sim.configure(latency=0.01)
    for where in ("finish", "answer", "detail"):
        assert run[where]["status"] == "failed"
        assert "Rate Limit Error, 429" in run[where]["error"]


def test_a_detail_that_always_answers_500(sim: Simulator) -> None:
    sim.faults(rows={"bad": ["detail_500"]})
    with client(sim.base_url) as http:
        bad, good = (post(http, id=row).json()["workflow_run_id"] for row in ("bad", "good"))
        assert [http.get(f"/workflows/run/{run}").status_code for run in (bad, bad, good)] == [500, 500, 200]
        assert http.get(f"/workflow/{bad}/events?user=u").status_code == 500
        assert http.get("/workflows/logs", params={"keyword": bad}).json()["total"] == 1


@pytest.mark.parametrize(
    "plan", [{"all": {"name": "detail_lags", "seconds": 0.3}}, {"server": {"name": "detail_lags", "seconds": 0.3}}]
)
def test_a_detail_that_lags(sim: Simulator, plan: dict[str, Any]) -> None:
    sim.faults(plan)
    with client(sim.base_url) as http:
        done = post(http).json()
        path = f"/workflows/run/{done['workflow_run_id']}"
        before = http.get(path).json()
        log = http.get("/workflows/logs", params={"keyword": done["workflow_run_id"]}).json()["data"][0]
        assert (before["status"], before["outputs"], before["finished_at"]) == ("running", {}, None)
        assert log["workflow_run"]["status"] == "running"
        after = eventually(lambda: (d := http.get(path).json())["finished_at"] and d)
        assert after["outputs"] == done["data"]["outputs"]


def test_events_that_are_lost(sim: Simulator) -> None:
    started = told(sim, "lost_started")["stream"]
    assert "workflow_started" not in [event["event"] for event in started]
    assert started[-1]["event"] == "workflow_finished"
    sim.faults(rows={"r": ["lost_finished"]})
    received, closed = raw_post(sim.base_url, "streaming", "r")
    assert closed
    assert received.endswith(b"0\r\n\r\n")
    assert b"node_finished" in received
    assert b"workflow_finished" not in received
    assert sim.state()["executions"]["r"] == 1


def test_ids_that_disagree(sim: Simulator) -> None:
    run = told(sim, "ids_disagree")
    ids = {event["workflow_run_id"] for event in run["stream"] if event["event"] != "ping"}
    assert len(ids) == 2
    assert run["finish"]["id"] in ids
    assert run["stream"][1]["workflow_run_id"] != run["stream"][-1]["workflow_run_id"]
    assert run["answer"]["id"] != run["detail"]["id"]


def test_an_answer_that_is_doubled(sim: Simulator) -> None:
    sim.faults(rows={"twice": ["doubled"]})
    received, closed = raw_post(sim.base_url, "blocking", "twice", timeout=0.5)
    first, second = received[: len(received) // 2], received[len(received) // 2 :]
    assert first == second
    assert first.startswith(b"HTTP/1.1 200 ")
    assert sim.state()["executions"]["twice"] == 1
    assert not closed, "the connection is kept"


@pytest.mark.parametrize("mode", ["blocking", "streaming"])
def test_an_answer_without_end(sim: Simulator, mode: str) -> None:
    sim.faults(all="endless")
    size = 0
    with client(sim.base_url) as http:
        body = {"inputs": {"query": "x"}, "response_mode": mode, "user": "u"}
        with http.stream("POST", "/workflows/run", json=body) as response:
            for part in response.iter_raw():
                size += len(part)
                if size > 20_000_000:
                    break
    assert size > 20_000_000
    eventually(lambda: sim.state(runs=False)["in_flight"] == 0)


def test_a_small_gzip_of_a_gigabyte(sim: Simulator) -> None:
    sim.faults(all="gzip_bomb")
    with client(sim.base_url) as http:
        body = {"inputs": {"query": "x"}, "user": "u"}
        with http.stream("POST", "/workflows/run", json=body) as response:
            packed = b"".join(response.iter_raw())
    assert response.headers["content-encoding"] == "gzip"
    assert len(packed) < 2_000_000
    unpacker = zlib.decompressobj(31)
    head = unpacker.decompress(packed, 100)
    assert head.startswith(b'{"data":{"outputs":{"text":" ')
    size, rest = len(head), unpacker.unconsumed_tail
    while rest:
        size += len(unpacker.decompress(rest, 1 << 26))
        rest = unpacker.unconsumed_tail
    assert unpacker.eof, "a whole gzip, with the right sums"
    assert size > 1 << 30


@pytest.mark.parametrize(
    ("name", "media", "end"),
    [
        ("sse_cr", "text/event-stream; charset=utf-8", b"\r\r"),
        ("sse_crlf", "text/event-stream; charset=utf-8", b"\r\n\r\n"),
        ("sse_no_media_type", "", b"\n\n"),
        ("sse_other_case", "Text/Event-Stream; Charset=UTF-8", b"\n\n"),
    ],
)
def test_dialects_of_event_streams(sim: Simulator, name: str, media: str, end: bytes) -> None:
    sim.faults(all=name)
    with client(sim.base_url) as http:
        response = post(http, "streaming")
    assert response.headers["content-type"] == media
    assert response.content.endswith(b"}" + end)
    text = response.text.replace("\r\n", "\n").replace("\r", "\n")
    assert names(text)[-1] == "workflow_finished"
    assert end == b"\n\n" or b"\n\n" not in response.content.replace(b"\r\n", b"")


def test_a_clock_that_is_wrong(sim: Simulator) -> None:
    sim.configure(clock_skew=-86400.0)
    with client(sim.base_url) as http:
        answer = post(http)
        true = sim.ledger()[-1]
        now = http.get("/info").headers["date"]
    assert answer.json()["data"]["created_at"] == pytest.approx(sim.core.site.means.clock.wall() - 86400, abs=30)
    assert httpx.Headers({"d": now})["d"].endswith("GMT")
    assert true["begun"] == pytest.approx(sim.core.site.means.monotonic(), abs=30)


def test_every_odd_fault_is_shown_here() -> None:
    with open(__file__, encoding="utf-8") as file:
        source = file.read()
    assert [name for name in ODD_FAULTS if f'"{name}"' not in source] == []
