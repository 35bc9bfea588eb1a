"""API and workers killed and started again: what is in the database stays, what was in memory is gone."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from dify_batch.simulator import Config, Simulator
from tests.support.simhelp import client, eventually, names, parse_events, post, raw_post, stream_until

LONG = 30.0  # longer than any test
FAST = Config(latency=0, linger_after_finish=0, ping_interval=0.05, snapshot_delay=0.01, stop_delay=0.01)


def statuses(sim: Simulator) -> dict[str, str]:
    return {run["row"]: run["status"] for run in sim.state()["runs"]}


def crash_at_start(sim: Simulator, http: httpx.Client, what: str, row: str) -> None:
    """Reads a stream that something is killed under, once its run has begun."""
    body = {"inputs": {"query": "x", "id": row}, "response_mode": "streaming", "user": "u"}
    with http.stream("POST", "/workflows/run", json=body, timeout=0.3) as response:
        for part in response.iter_text():
            if "workflow_started" in part:
                sim.crash(what)


def test_a_killed_api_loses_blocking_runs_and_streams_but_no_streaming_run() -> None:
    with Simulator(FAST.changed({"max_active_requests": 9})) as sim, client(sim.base_url) as http:
        sim.faults(rows={"blocking": [{"latency": LONG}], "streamed": [{"latency": 0.2}]})
        with pytest.raises(httpx.ReadTimeout):
            http.post("/workflows/run", json={"inputs": {"query": "x", "id": "blocking"}, "user": "u"}, timeout=0.2)
        with pytest.raises(httpx.RemoteProtocolError):
            crash_at_start(sim, http, "api", "streamed")
        with pytest.raises(httpx.ConnectError):
            http.get("/info")
        eventually(lambda: statuses(sim) == {"blocking": "running", "streamed": "succeeded"})
        assert sim.state(runs=False)["running"] == 0
        sim.restart("api")
        assert http.get("/info").status_code == 200
        (dead,) = [run for run in sim.ledger() if run["row"] == "blocking"]
        assert (dead["ended"], dead["killed"]) == (None, True)
        detail = http.get(f"/workflows/run/{dead['run_id']}").json()
        assert (detail["status"], detail["finished_at"]) == ("running", None)


def test_a_killed_worker_loses_what_it_executes_and_nothing_that_waits() -> None:
    with Simulator(FAST.changed({"workers": 1})) as sim, client(sim.base_url) as http:
        sim.faults(rows={"first": [{"latency": LONG}]})
        stream_until(http, "workflow_started", id="first")
        assert raw_post(sim.base_url, "streaming", "second", timeout=0.1)[1] is False
        sim.crash("worker")
        assert post(http, id="third").status_code == 200  # blocking runs need no worker (dify-wire 26a3)
        assert statuses(sim) == {"first": "running", "third": "succeeded"}
        assert sim.state()["queued"] == 1
        sim.restart("worker")
        eventually(lambda: statuses(sim).get("second") == "succeeded")
        assert statuses(sim)["first"] == "running"
        assert sim.state(runs=False)["executions"] == {"first": 1, "second": 1, "third": 1}


def test_a_stream_of_a_killed_worker_is_silent() -> None:
    with Simulator(FAST) as sim:
        sim.faults(all={"name": "normal", "latency": LONG})
        with client(sim.base_url) as http, pytest.raises(httpx.ReadTimeout):
            crash_at_start(sim, http, "worker", "any")


def test_a_crash_of_some_seconds() -> None:
    with Simulator(FAST) as sim, client(sim.base_url) as http:
        sim.crash("api", seconds=0.05)

        def answers() -> bool:
            try:
                return http.get("/info").status_code == 200
            except httpx.TransportError:
                return False

        eventually(answers)
        sim.crash("worker", seconds=0.05)
        assert names(post(http, "streaming").text)[-1] == "workflow_finished"
        with pytest.raises(ValueError, match="api or worker"):
            sim.crash("redis")
        with pytest.raises(ValueError, match="api or worker"):
            sim.restart("redis")


def test_a_paused_run_survives_everything() -> None:
    with Simulator(FAST) as sim, client(sim.base_url, "app-human") as http:
        paused: dict[str, Any] = post(http).json()
        sim.crash("api")
        sim.crash("worker")
        sim.restart("worker")
        sim.restart("api")
        sim.submit_form(paused["workflow_run_id"], comment="fine")
        path = f"/workflows/run/{paused['workflow_run_id']}"
        done = eventually(lambda: (d := http.get(path).json())["finished_at"] and d)
        assert done["outputs"] == {"comment": "fine", "query": "hello"}


def test_the_slot_of_a_run_that_died_with_the_api_frees_itself() -> None:
    config = FAST.changed({"max_active_requests": 1, "app_slot_expiry": 0.1})
    with Simulator(config) as sim, client(sim.base_url) as http:
        sim.faults(rows={"dies": [{"latency": LONG}]})
        with pytest.raises(httpx.ReadTimeout):
            http.post("/workflows/run", json={"inputs": {"query": "x", "id": "dies"}, "user": "u"}, timeout=0.2)
        sim.crash("api")
        sim.restart("api")
        assert "Too many requests" in post(http).text
        eventually(lambda: post(http).status_code == 200)


def test_the_ledger_knows_what_the_database_does_not() -> None:
    with Simulator(FAST) as sim, client(sim.base_url) as http:
        sim.faults(rows={"a": ["db_down_at_end"], "b": ["cut_before"], "c": ["zombie"]})
        streamed = parse_events(post(http, "streaming", user="me", id="a").text)[-1]["data"]
        raw_post(sim.base_url, "streaming", "b")
        raw_post(sim.base_url, "streaming", "c", timeout=0.1)
        rows = sim.ledger()
        assert [row["row"] for row in rows] == ["a", "c"]
        assert (rows[0]["run_id"], rows[0]["user"], rows[0]["status"]) == (streamed["id"], "me", "succeeded")
        assert rows[0]["outputs"] == '{"answer": "Echo: hello"}'
        assert rows[0]["inputs"] == '{"query": "hello", "id": "a"}'
        assert rows[0]["ended"] >= rows[0]["begun"]
        assert (rows[1]["ended"], rows[1]["status"], rows[1]["killed"]) == (None, None, True)
        assert rows[0]["killed"] is False
