"""When a run begins, who waits for whom, and what may be asked about it meanwhile."""

from __future__ import annotations

import json
import socket
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from dify_batch.simulator import Config, Simulator
from tests.support.simhelp import client, eventually, names, parse_events, post, raw_post, stream_until

LONG = 30.0  # longer than any test: such a run ends only when it is stopped
FAST = Config(latency=0, linger_after_finish=0, ping_interval=0.05, snapshot_delay=0.01, stop_delay=0.01)


def config(**changes: Any) -> Config:
    return FAST.changed(changes)


def stop_all(sim: Simulator) -> None:
    with client(sim.base_url) as http:
        for run in sim.state()["runs"]:
            http.post(f"/workflows/tasks/{run['task_id']}/stop", json={"user": "u"})


def total(http: httpx.Client, user: str) -> int:
    count: int = http.get("/workflows/logs", params={"created_by_end_user_session_id": user}).json()["total"]
    return count


def test_a_queued_run_is_in_no_log_until_a_worker_takes_it() -> None:
    with Simulator(config(workers=1)) as sim, client(sim.base_url) as http, ThreadPoolExecutor() as pool:
        sim.faults(rows={"first": [{"latency": LONG}]})
        first = pool.submit(post, http, "streaming", "one", id="first")
        eventually(lambda: total(http, "one") == 1)
        second: Future[httpx.Response] = pool.submit(post, http, "streaming", "two", id="second")
        eventually(lambda: sim.state(runs=False)["queued"] == 1)
        assert total(http, "two") == 0
        assert "second" not in sim.state()["executions"]
        stop_all(sim)
        assert names(first.result().text)[-1] == "workflow_finished"
        assert names(second.result().text)[:2] == ["ping", "workflow_started"]
        assert total(http, "two") == 1


def test_no_worker_then_one_executes_what_its_client_has_left() -> None:
    with Simulator(config(workers=0)) as sim, client(sim.base_url) as http:
        received, closed = raw_post(sim.base_url, "streaming", "left", timeout=0.3)
        assert not closed
        assert received.endswith(b"event: ping\n\n\r\n")
        assert sim.state()["executions"] == {}
        assert total(http, "u") == 0
        sim.configure(workers=1)
        eventually(lambda: sim.state()["executions"] == {"left": 1})
        eventually(lambda: sim.state()["runs"][0]["status"] == "succeeded")


def test_workers_are_not_exceeded() -> None:
    with Simulator(config(workers=2, latency=0.02)) as sim, client(sim.base_url) as http, ThreadPoolExecutor() as pool:
        runs = [pool.submit(post, http, "streaming", id=str(n)) for n in range(6)]
        assert all(names(run.result().text)[-1] == "workflow_finished" for run in runs)
        assert sim.state()["max_running"] == 2
        assert sim.state()["max_in_flight"] > 2


def test_streaming_needs_two_free_slots_and_keeps_none() -> None:
    with Simulator(config(max_active_requests=1, workers=None)) as sim, client(sim.base_url) as http:
        assert post(http, "streaming").status_code == 400  # dify-wire 17g
        assert post(http).status_code == 200  # 17h
        sim.configure(max_active_requests=2)
        sim.faults(rows={"long": [{"latency": LONG}] * 3})
        for _ in range(3):
            stream_until(http, "workflow_started", id="long")  # three at once with a limit of 2: 17f
        assert sim.state()["running"] == 3
        stop_all(sim)


def test_requests_beyond_the_connections_wait_unanswered() -> None:
    with Simulator(config(connections=1)) as sim, client(sim.base_url) as http, ThreadPoolExecutor() as pool:
        sim.faults(rows={"long": [{"latency": LONG}]})
        long = pool.submit(post, http, id="long")
        eventually(lambda: sim.state()["running"] == 1)
        with pytest.raises(httpx.ReadTimeout):
            http.get("/info", timeout=0.3)
        # One that gives up while it waits is executed all the same (dify-wire 23d1).
        assert raw_post(sim.base_url, "blocking", "impatient", timeout=0.3) == (b"", False)
        assert "impatient" not in sim.state()["executions"]
        sim.configure(connections=2)
        stop_all(sim)
        assert long.result().json()["data"]["status"] == "stopped"
        eventually(lambda: sim.state()["executions"].get("impatient") == 1)
        assert http.get("/info").status_code == 200


def test_in_flight_counts_what_clients_wait_for() -> None:
    with Simulator(config(linger_after_finish=LONG)) as sim, client(sim.base_url) as http:
        sim.faults(rows={"mute": ["silence"]})
        address = urlsplit(sim.base_url)
        body = json.dumps({"inputs": {"query": "x", "id": "mute"}, "response_mode": "streaming", "user": "u"}).encode()
        with socket.create_connection((str(address.hostname), address.port or 0)) as sock:
            sock.sendall(
                b"POST /v1/workflows/run HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer app-demo\r\n"
                b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
            eventually(lambda: sim.state()["in_flight"] == 1)
        eventually(lambda: sim.state()["in_flight"] == 0)  # the client has gone
        stream = {"inputs": {"query": "x"}, "response_mode": "streaming", "user": "u"}
        with http.stream("POST", "/workflows/run", json=stream) as response:
            for part in response.iter_text():
                if "workflow_finished" in part:
                    break
            eventually(lambda: sim.state()["in_flight"] == 0)  # it has its answer, though the stream is open
        sim.faults(rows={"bad": ["rejected"], "odd": ["error_event_after_start"]})
        for row in ("bad", "odd"):
            body_of = {"inputs": {"query": "x", "id": row}, "response_mode": "streaming", "user": "u"}
            with http.stream("POST", "/workflows/run", json=body_of) as response:
                for part in response.iter_text():
                    if '"event":"error"' in part:
                        break
                eventually(lambda: sim.state()["in_flight"] == 0)
        assert sim.state()["max_in_flight"] == 1


def test_worker_pings_a_long_run() -> None:
    with Simulator(config(latency=0.4)) as sim, client(sim.base_url) as http:
        events = names(post(http, "streaming").text)
        started = events.index("workflow_started")
        assert events[0] == "ping"
        assert events[started:].count("ping") >= 2
        assert events[-1] == "workflow_finished"


def test_a_stream_stays_open_after_its_last_event() -> None:
    with Simulator(config(linger_after_finish=LONG, hold_after_error=LONG)) as sim:
        sim.faults(rows={"bad": ["rejected"]})
        for row, last in (("good", b"workflow_finished"), ("bad", b'"event":"error"')):
            received, closed = raw_post(sim.base_url, "streaming", row, timeout=0.3)
            assert last in received
            assert not closed
            assert not received.endswith(b"0\r\n\r\n")


def test_a_stream_without_an_event_ends_cleanly() -> None:
    with Simulator(config(workers=0, hold_after_error=0.05)) as sim:
        received, closed = raw_post(sim.base_url, "streaming", "none")
        assert closed
        assert received.endswith(b"event: ping\n\n\r\n0\r\n\r\n")


def test_idle_connections_are_closed_and_a_late_post_is_not_executed() -> None:
    with Simulator(config(keep_alive=0.05)) as sim:
        address = urlsplit(sim.base_url)
        with socket.create_connection((str(address.hostname), address.port or 0), timeout=5) as sock:
            sock.sendall(b"GET /v1/info HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer app-demo\r\n\r\n")
            answer = b""
            while part := sock.recv(65536):
                answer += part
        assert answer.endswith(b"}\n")  # and then the end, by the server


def test_stop_of_a_paused_run_leaves_it_running_for_ever() -> None:
    with Simulator(FAST) as sim, client(sim.base_url, "app-human") as http:
        paused = post(http).json()
        run_id = paused["workflow_run_id"]
        http.post(f"/workflows/tasks/{paused['task_id']}/stop", json={"user": "u"})
        assert http.get(f"/workflows/run/{run_id}").json()["status"] == "paused"
        sim.submit_form(run_id, "reject", comment="no")
        assert http.get(f"/workflows/run/{run_id}").json()["status"] == "running"  # dify-wire 18u
        assert sim.state()["queued"] == 0


def test_stop_ends_a_run_over_its_task_id_only() -> None:
    with Simulator(config(latency=LONG)) as sim, client(sim.base_url) as http:
        stream_until(http, "workflow_started", id="r")
        run = sim.state()["runs"][0]
        assert http.post(f"/workflows/tasks/{run['id']}/stop", json={"user": "u"}).json() == {"result": "success"}
        assert sim.state()["running"] == 1
        http.post(f"/workflows/tasks/{run['task_id']}/stop", json={"user": "u"})
        detail = eventually(lambda: (d := http.get(f"/workflows/run/{run['id']}").json())["finished_at"] and d)
        assert (detail["status"], detail["error"]) == ("stopped", "Aborted: User requested stop")


def watch(http: httpx.Client, run_id: str, query: str, until: str, sim: Simulator | None = None) -> list[str]:
    """The names of a run's events up to `until`; stops all runs of `sim` at the first of them."""
    text = ""
    with http.stream("GET", f"/workflow/{run_id}/events?user=u{query}") as response:
        for part in response.iter_text():
            if not text and sim is not None:
                stop_all(sim)
            text += part
            if until in names(text):
                break
    return names(text)


def test_events_of_a_running_run() -> None:
    with Simulator(config(latency=LONG)) as sim, client(sim.base_url) as http:
        stream_until(http, "node_started", id="a")
        run_id = sim.state()["runs"][0]["id"]
        with_snapshot = watch(http, run_id, "&include_state_snapshot=true", "node_finished")
        assert with_snapshot[0] == "ping"
        assert [n for n in with_snapshot if n != "ping"][:3] == ["workflow_started", "node_started", "node_finished"]
        live = watch(http, run_id, "", "workflow_finished", sim)
        assert [n for n in live if n != "ping"] == ["workflow_finished"]
        eventually(lambda: http.get(f"/workflows/run/{run_id}").json()["finished_at"])
        assert watch(http, run_id, "&include_state_snapshot=true", "-") == ["workflow_finished"]


def test_events_with_continue_on_pause_and_no_snapshot_never_end() -> None:
    with Simulator(config(latency=LONG)) as sim, client(sim.base_url) as http:
        stream_until(http, "node_started", id="a")
        run_id = sim.state()["runs"][0]["id"]
        text = ""
        with http.stream("GET", f"/workflow/{run_id}/events?user=u&continue_on_pause=true") as response:
            for part in response.iter_text():
                if not text:
                    stop_all(sim)
                text += part
                if "ping" in names(text.partition('"event":"workflow_finished"')[2].partition("\n\n")[2]):
                    break  # it goes on after workflow_finished (dify-wire 24d)
        assert "workflow_finished" in names(text)


def test_events_of_a_blocking_run_are_pings_only() -> None:
    with Simulator(config(latency=LONG)) as sim, client(sim.base_url) as http:
        with pytest.raises(httpx.ReadTimeout):
            http.post("/workflows/run", json={"inputs": {"query": "x"}, "user": "u"}, timeout=0.3)
        run_id = sim.state()["runs"][0]["id"]
        text = ""
        with http.stream("GET", f"/workflow/{run_id}/events?user=u") as response:
            for part in response.iter_text():
                if not text:
                    stop_all(sim)
                    eventually(lambda: sim.state()["runs"][0]["status"] == "stopped")
                text += part
                if text.count("ping") == 4:
                    break
        assert set(names(text)) == {"ping"}


def test_events_are_for_the_same_user_and_app_only() -> None:
    with Simulator(FAST) as sim, client(sim.base_url) as http, client(sim.base_url, "app-echo") as other:
        run_id = post(http).json()["workflow_run_id"]
        assert http.get(f"/workflow/{run_id}/events?user=u").status_code == 200
        assert http.get(f"/workflow/{run_id}/events?user=v").status_code == 404
        assert other.get(f"/workflow/{run_id}/events?user=u").status_code == 404
        assert other.get(f"/workflows/run/{run_id}").status_code == 404
        assert total(other, "u") == 0


def test_log_pages_and_filters() -> None:
    with Simulator(FAST) as sim, client(sim.base_url) as http:
        sim.faults(rows={"1": ["failed"], "3": ["failed"]})
        ids = [
            post(http, user=f"user-{n % 2}", query=f"question {n} é日", id=str(n)).json()["workflow_run_id"]
            for n in range(5)
        ]

        def found(**params: Any) -> list[str]:
            rows = http.get("/workflows/logs", params=params).json()["data"]
            return [row["workflow_run"]["id"] for row in rows]

        assert found() == ids[::-1]
        page = http.get("/workflows/logs?page=2&limit=2").json()
        assert (page["total"], page["has_more"]) == (5, True)
        assert [row["workflow_run"]["id"] for row in page["data"]] == ids[::-1][2:4]
        last = http.get("/workflows/logs?page=3&limit=2").json()
        assert (len(last["data"]), last["has_more"]) == (1, False)
        assert http.get("/workflows/logs?page=9").json()["data"] == []
        assert found(created_by_end_user_session_id="user-1") == [ids[3], ids[1]]
        assert found(created_by_end_user_session_id="user-") == []
        assert found(status="failed") == [ids[3], ids[1]]
        assert found(status="failed", limit=1, page=2) == [ids[1]]
        assert found(keyword="question 2") == [ids[2]]
        assert found(keyword="日") == []  # stored escaped (dify-wire 14g)
        assert found(keyword="ser-1") == [ids[3], ids[1]]
        assert found(keyword=ids[4]) == [ids[4]]
        assert found(created_by_account="admin@example.com") == []
        assert found(created_at__after="2001-01-01T00:00:00Z", created_at__before="2101-01-01T00:00:00") == ids[::-1]
        assert found(created_at__after="2101-01-01T00:00:00+01:00") == []
        assert found(created_at__before="2001-01-01T00:00:00Z") == []


def test_counters_after_a_reset_in_the_middle() -> None:
    with Simulator(config(latency=0.3)) as sim, client(sim.base_url) as http, ThreadPoolExecutor() as pool:
        old = pool.submit(post, http, id="old")
        eventually(lambda: sim.state()["running"] == 1)
        sim.reset()
        assert old.result().status_code == 200
        state = sim.state()
        assert (state["in_flight"], state["post_total"], state["executions"], state["runs"]) == (0, 0, {}, [])
        assert post(http, id="new").status_code == 200
        assert sim.state()["max_in_flight"] == 1


def test_identical_posts_are_separate_runs() -> None:
    with Simulator(FAST) as sim, client(sim.base_url) as http:
        first, second = (post(http, id="same").json() for _ in range(2))
        assert first["workflow_run_id"] != second["workflow_run_id"]
        assert sim.state()["executions"] == sim.state()["posts"] == {"same": 2}


def test_tokens_of_the_demo_and_of_an_echo() -> None:
    with Simulator(FAST) as sim, client(sim.base_url) as demo, client(sim.base_url, "app-echo") as echo:
        assert post(demo).json()["data"]["total_tokens"] == post(demo).json()["data"]["total_tokens"] > 0
        assert post(echo).json()["data"]["total_tokens"] == 0


def test_run_by_workflow_id() -> None:
    with Simulator(FAST) as sim, client(sim.base_url) as http, client(sim.base_url, "app-echo") as other:
        workflow = post(http).json()["data"]["workflow_id"]
        body = {"inputs": {"query": "x"}, "user": "u"}
        assert http.post(f"/workflows/{workflow}/run", json=body).json()["data"]["workflow_id"] == workflow
        assert other.post(f"/workflows/{workflow}/run", json=body).status_code == 404


def test_options_and_head() -> None:
    with Simulator(FAST) as sim, client(sim.base_url) as http:
        assert http.options("/workflows/run").headers["allow"] == "OPTIONS, POST"
        head = http.head("/parameters")
        assert (head.status_code, head.content) == (200, b"")


def test_latency_tail_is_the_same_for_the_same_row() -> None:
    with Simulator(config(latency=0.001, latency_tail=lambda row, nth: 0.001 * len(row) * nth)) as sim:
        with client(sim.base_url) as http:
            run = post(http, id="x" * 50).json()
        assert run["data"]["elapsed_time"] >= 0.051


def test_finished_runs_keep_nothing_but_their_record() -> None:
    with Simulator(FAST) as sim, client(sim.base_url) as http:
        post(http)
        post(http, "streaming")
        registry = sim.core.site.engine.registry
        assert [run.live for run in registry.by_id.values()] == [None, None]
        assert registry.by_task == {}


def test_it_is_not_running_before_and_after() -> None:
    sim = Simulator(FAST)
    with pytest.raises(RuntimeError, match="not running"):
        _ = sim.base_url
    with sim:
        url = sim.base_url
    sim.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False, verify=False)
    with pytest.raises(RuntimeError, match="not running"):
        sim.state()


def test_a_taken_port_is_told() -> None:
    with Simulator(FAST) as sim:
        port = urlsplit(sim.base_url).port
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
            Simulator(Config(port=port or 0)).start()


def test_events_keep_their_order_under_load() -> None:
    with Simulator(config(workers=None)) as sim, ThreadPoolExecutor(8) as pool:

        def one(n: int) -> list[str]:
            with client(sim.base_url) as http:
                events = parse_events(post(http, "streaming", id=str(n), query=f"q{n}").text)
            assert events[-1]["data"]["outputs"] == {"answer": f"Echo: q{n}"}
            return [event["event"] for event in events]

        seen = list(pool.map(one, range(40)))
        assert all(order == seen[0] for order in seen)
        assert sim.state()["executions"] == {str(n): 1 for n in range(40)}
