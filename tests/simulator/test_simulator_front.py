"""What stands in front of Dify, what older servers lack, and requests that go wrong whatever they ask for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from dify_batch.simulator import Config, Simulator
from dify_batch.simulator.faults import REQUEST_FAULTS, SERVER_FAULTS, UPLOAD_FAULTS
from dify_batch.simulator.gateway import GATEWAY_FAULTS
from tests.support.simhelp import client, eventually, post, raw_post

FAST = Config(latency=0.01, linger_after_finish=0.02, ping_interval=0.1, workers=None)


@pytest.fixture(scope="module")
def shared() -> Iterator[Simulator]:
    with Simulator(FAST) as simulator:
        yield simulator


@pytest.fixture
def sim(shared: Simulator) -> Iterator[Simulator]:
    yield shared
    shared.faults()


def upload(http: httpx.Client, name: str = "a.txt") -> httpx.Response:
    return http.post("/files/upload", files={"file": (name, b"x", "text/plain")}, data={"user": "u"})


def asks(http: httpx.Client) -> list[httpx.Response]:
    """One request of each kind."""
    run_id = "0" * 8 + "-0000-4000-a000-" + "0" * 12
    return [
        http.get("/parameters"),
        http.get("/info"),
        post(http),
        post(http, "streaming"),
        http.get(f"/workflows/run/{run_id}"),
        http.get("/workflows/logs"),
        http.get(f"/workflow/{run_id}/events?user=u"),
        upload(http),
    ]


def is_difys(response: httpx.Response) -> bool:
    """Whether Dify speaks: its JSON has a code, its answers a version."""
    try:
        return "code" in response.json() or "x-version" in response.headers
    except ValueError:
        return False


@pytest.mark.parametrize("name", GATEWAY_FAULTS)
def test_a_gateway_answers_everything_in_its_own_words(sim: Simulator, name: str) -> None:
    executed = sim.state(runs=False)["executions"]
    sim.faults(server={"name": name, "seconds": 3})
    with client(sim.base_url, "app-files") as http:
        answers = asks(http)
    status = int(name.split("_")[1])
    assert {answer.status_code for answer in answers} == {status}
    assert not any(map(is_difys, answers))
    assert {answer.headers.get("retry-after") for answer in answers} == {"3"}
    assert answers[0].headers["server"] == "nginx"
    assert sim.state(runs=False)["executions"] == executed


@pytest.mark.parametrize("mode", ["blocking", "streaming"])
def test_a_gateway_answers_one_row(sim: Simulator, mode: str) -> None:
    sim.faults(rows={"blocked": ["gateway_403_firewall"]})
    with client(sim.base_url) as http:
        assert [post(http, mode, id=row).status_code for row in ("blocked", "fine")] == [403, 200]
    assert "blocked" not in sim.state(runs=False)["executions"]


def test_words_of_gateways(sim: Simulator) -> None:
    words = {
        "gateway_404_text": "404 page not found\n",
        "gateway_404_backend": "default backend - 404",
        "gateway_200_empty": "",
        "gateway_404_json": '{"message":"no Route matched with those values"}',
    }
    with client(sim.base_url) as http:
        for name, text in words.items():
            sim.faults(server=name)
            assert http.get("/info").text == text
        sim.faults(server="gateway_302")
        assert http.get("/info").headers["location"].startswith("/login")
        sim.faults(server="gateway_401")
        assert http.get("/info").headers["www-authenticate"].startswith("Basic")


def statuses(http: httpx.Client, count: int) -> list[int]:
    return [http.get("/info").status_code for _ in range(count)]


def test_from_the_nth_request_on_for_some_requests_or_for_a_while(sim: Simulator) -> None:
    with client(sim.base_url) as http:
        sim.faults(server={"name": "gateway_404_text", "after": 2, "times": 2})
        assert statuses(http, 6) == [200, 200, 404, 404, 200, 200]
        sim.faults(server={"name": "gateway_503", "lasts": 0.2})
        assert http.get("/info").status_code == 503
        eventually(lambda: http.get("/info").status_code == 200)
        sim.faults(server={"name": "gateway_502", "on": ["GET parameters", "POST"], "after": 1})
        assert [http.get("/parameters").status_code for _ in range(2)] == [200, 502]
        assert statuses(http, 2) == [200, 200]
        assert post(http).status_code == 502
        sim.faults(server=[{"name": "gateway_502", "times": 1}, {"name": "gateway_503", "after": 1, "times": 1}])
        assert statuses(http, 3) == [502, 503, 200]


@pytest.mark.parametrize(("name", "status"), [("throttle_429", 429), ("gateway_503", 503)])
def test_retry_after_at_the_first_question(sim: Simulator, name: str, status: int) -> None:
    sim.faults(server={"name": name, "seconds": 3, "on": "GET parameters", "times": 1})
    with client(sim.base_url) as http:
        first, second = http.get("/parameters"), http.get("/parameters")
    assert (first.status_code, first.headers["retry-after"]) == (status, "3")
    assert is_difys(first) == (name == "throttle_429")
    assert second.status_code == 200


def test_behind_a_proxy_a_dead_api_is_502(sim: Simulator) -> None:
    sim.faults(rows={"long": [{"latency": 30}], "stream": [{"latency": 0.3}]}, server="proxied")
    with client(sim.base_url) as http:
        with pytest.raises(httpx.RemoteProtocolError):
            _read_and_kill(sim, http)
        assert http.get("/info").status_code == 502
        sim.restart("api")
        assert http.get("/info").status_code == 200
    sim.crash("api", seconds=0.05)
    with client(sim.base_url) as http:
        eventually(lambda: http.get("/info").status_code == 200)
    eventually(lambda: [r["status"] for r in sim.state()["runs"] if r["row"] == "stream"] == ["succeeded"])


def _read_and_kill(sim: Simulator, http: httpx.Client) -> None:
    body = {"inputs": {"query": "x", "id": "stream"}, "response_mode": "streaming", "user": "u"}
    with http.stream("POST", "/workflows/run", json=body) as response:
        for part in response.iter_text():
            if "workflow_started" in part:
                sim.crash("api")


def test_a_blocking_run_whose_api_dies_behind_a_proxy(sim: Simulator) -> None:
    sim.faults(rows={"dies": [{"latency": 30}]}, server="proxied")
    with client(sim.base_url) as http, ThreadPoolExecutor() as pool:
        waiting = pool.submit(post, http, id="dies")
        eventually(lambda: sim.state(runs=False)["executions"].get("dies"))
        sim.crash("api")
        answer = waiting.result()
        sim.restart("api")
        assert (answer.status_code, is_difys(answer)) == (502, False)
        run = next(run for run in sim.state()["runs"] if run["row"] == "dies")
        assert http.get(f"/workflows/run/{run['id']}").json()["status"] == "running"


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [("info_404", 404, "not_found"), ("info_404_html", 404, None), ("info_403", 403, "forbidden")],
)
def test_a_server_without_info(sim: Simulator, name: str, status: int, code: str | None) -> None:
    sim.faults(server=name)
    with client(sim.base_url) as http:
        info = http.get("/info")
        assert info.status_code == status
        assert (info.json()["code"] if code else info.headers["content-type"]) == (code or "text/html; charset=utf-8")
        assert http.get("/parameters").status_code == 200


def test_an_older_server(sim: Simulator) -> None:
    sim.faults(server=["no_events", "outputs_as_text"])
    with client(sim.base_url) as http:
        run = post(http).json()
        events = http.get(f"/workflow/{run['workflow_run_id']}/events?user=u")
        assert (events.status_code, events.json()["code"]) == (404, "not_found")
        detail = http.get(f"/workflows/run/{run['workflow_run_id']}").json()
        assert isinstance(detail["outputs"], str)
        assert json.loads(detail["outputs"]) == run["data"]["outputs"]


def test_the_release_says_nothing_of_what_it_refuses_in_a_stream(sim: Simulator) -> None:
    sim.faults(server="mute_refusals", rows={"bad": ["rejected", "rejected"]})
    received, closed = raw_post(sim.base_url, "streaming", "bad", timeout=0.3)
    assert received.endswith(b"event: ping\n\n\r\n")
    assert not closed
    with client(sim.base_url) as http:
        assert post(http, id="bad").status_code == 400
    assert "bad" not in sim.state(runs=False)["executions"]


def test_a_log_that_ignores_the_user_or_is_slow(sim: Simulator) -> None:
    with client(sim.base_url) as http:
        for user in ("me", "you"):
            post(http, user=user)
        mine = {"created_by_end_user_session_id": "me"}

        def users(**more: Any) -> set[str]:
            rows = http.get("/workflows/logs", params=mine, **more).json()["data"]
            return {row["created_by_end_user"]["session_id"] for row in rows}

        assert users() == {"me"}
        sim.faults(server="log_ignores_user")
        assert {"me", "you"} <= users()
        sim.faults(server={"name": "slow_log", "seconds": 30})
        with pytest.raises(httpx.ReadTimeout):
            users(timeout=0.2)
        assert http.get("/info").status_code == 200


@pytest.mark.parametrize(
    ("name", "status"),
    [("upload_413", 413), ("upload_415", 415), ("upload_500", 500), ("gateway_413", 413), ("gateway_502", 502)],
)
def test_uploads_that_are_refused(sim: Simulator, name: str, status: int) -> None:
    sim.faults(uploads={"a.txt": [name, "normal", name]})
    with client(sim.base_url, "app-files") as http:
        assert [upload(http, f).status_code for f in ("a.txt", "b.txt", "a.txt", "a.txt", "a.txt")] == [
            status, 201, 201, status, 201,
        ]  # fmt: skip
        sim.faults(uploads={"*": [name]})
        assert [upload(http, f).status_code for f in ("c.txt", "d.txt")] == [status, 201]


@pytest.mark.parametrize(("name", "stored"), [("upload_cut", 0), ("upload_cut_after", 1)])
def test_uploads_that_are_cut(sim: Simulator, name: str, stored: int) -> None:
    before = len(sim.core.site.files)
    sim.faults(uploads={"a.txt": [name]})
    with client(sim.base_url, "app-files") as http, pytest.raises(httpx.RemoteProtocolError):
        upload(http)
    assert len(sim.core.site.files) - before == stored


def raw_get(sim: Simulator, http: httpx.Client) -> bytes:
    with http.stream("GET", "/info") as response:
        return b"".join(response.iter_raw())


def test_any_request_can_be_cut(sim: Simulator) -> None:
    for name, executed in (("cut", 0), ("cut_answer", 1), ("cut_in_answer", 1)):
        sim.faults(server={"name": name, "on": ["POST workflows/run", "GET workflows/logs"]})
        with client(sim.base_url) as http:
            with pytest.raises(httpx.RemoteProtocolError):
                post(http, id=name)
            with pytest.raises(httpx.RemoteProtocolError):
                http.get("/workflows/logs")
            assert http.get("/info").status_code == 200
        assert sim.state(runs=False)["executions"].get(name, 0) == executed


def test_any_request_can_be_slow_doubled_endless_or_a_bomb(sim: Simulator) -> None:
    with client(sim.base_url) as http:
        sim.faults(server={"name": "slow", "seconds": 30, "on": "GET info"})
        with pytest.raises(httpx.ReadTimeout):
            http.get("/info", timeout=0.2)
        assert http.get("/parameters").status_code == 200
        sim.faults(server={"name": "gzip_bomb", "on": "GET info"})
        assert 500_000 < len(raw_get(sim, http)) < 2_000_000
        sim.faults(server={"name": "endless", "on": "GET info"})
        size = 0
        with http.stream("GET", "/info") as response:
            for part in response.iter_raw():
                size += len(part)
                if size > 5_000_000:
                    break
    sim.faults(server={"name": "doubled", "on": "workflows/run"})
    received, _ = raw_post(sim.base_url, "blocking", "twice", timeout=0.5)
    assert received.count(b"HTTP/1.1 200") == 2
    assert sim.state(runs=False)["executions"]["twice"] == 1


def test_bad_plans_are_told(sim: Simulator) -> None:
    for plan, words in (
        ({"uploads": {"a": ["failed"]}}, "upload 'a': unknown fault 'failed'"),
        ({"uploads": 1}, "uploads must be an object of file name"),
        ({"server": {"name": "cut", "after": "x"}}, "after of cut must be a number"),
        ({"server": {"name": "cut", "until": 1}}, "name, on, seconds, latency, after, times, lasts"),
        ({"server": "lost_started"}, "unknown fault 'lost_started'"),
    ):
        with pytest.raises(ValueError, match=words):
            sim.faults(plan)


def test_every_fault_is_shown_here() -> None:
    elsewhere = {"refuse", "closed_log", "outage_500", "redis_down", "hang", "normal", "detail_lags"}
    with open(__file__, encoding="utf-8") as file:
        source = file.read()
    named = set(SERVER_FAULTS) | set(REQUEST_FAULTS) | set(UPLOAD_FAULTS)
    assert [name for name in named - elsewhere if f'"{name}"' not in source] == []
