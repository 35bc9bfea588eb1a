"""What the whole server can suffer from: refusing, outages, hanging."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest

from dify_batch.simulator import Config, Simulator
from tests.support.simhelp import client, eventually, names, post, raw_post

SCALED = Config(
    latency=0.01, linger_after_finish=0.02, hold_after_error=0.6, ping_interval=0.1, stop_delay=0.02, late_end=0.1
)
SILENT = 0.4  # seconds without a byte that count as silence here; longer than ping_interval


@pytest.fixture(scope="module")
def shared() -> Iterator[Simulator]:
    with Simulator(SCALED) as simulator:
        yield simulator


@pytest.fixture
def sim(shared: Simulator) -> Iterator[Simulator]:
    yield shared
    shared.faults()


def test_refused_and_back_on_the_same_port(sim: Simulator) -> None:
    with client(sim.base_url) as http:
        assert http.get("/info").status_code == 200
        sim.refuse(True)
        with pytest.raises(httpx.ConnectError):
            http.get("/info")  # the idle connection was closed too
        sim.refuse(False)
        assert http.get("/info").status_code == 200
        sim.faults(server="refuse")
        assert _refuses(http)
        sim.faults()
        assert not _refuses(http)
        sim.refuse(seconds=0.3)
        eventually(lambda: not _refuses(http))


def _refuses(http: httpx.Client) -> bool:
    try:
        http.get("/info")
    except httpx.TransportError:
        return True
    return False


def test_running_requests_survive_a_refusal(sim: Simulator) -> None:
    sim.faults(rows={"on": [{"latency": 0.3}]})
    with client(sim.base_url) as http:
        body = {"inputs": {"query": "x", "id": "on"}, "response_mode": "streaming", "user": "u"}
        with http.stream("POST", "/workflows/run", json=body) as response:
            sim.refuse(True)
            text = "".join(response.iter_text())
    sim.refuse(False)
    assert names(text)[-1] == "workflow_finished"


WHOLE: list[tuple[str, Callable[[httpx.Client], httpx.Response], int]] = [
    ("outage_500", lambda http: http.get("/parameters"), 500),
    ("outage_500", lambda http: post(http), 500),
    ("outage_500", lambda http: post(http, "streaming"), 500),
    ("closed_log", lambda http: http.get("/workflows/logs"), 403),
    ("closed_log", lambda http: http.get("/info"), 200),
    ("redis_down", lambda http: http.get("/workflows/logs"), 200),
    ("redis_down", lambda http: post(http), 500),
]


@pytest.mark.parametrize(("name", "call", "status"), WHOLE)
def test_whole_server(sim: Simulator, name: str, call: Callable[[httpx.Client], httpx.Response], status: int) -> None:
    sim.faults(server={"name": name, "seconds": 0.05})
    before = sum(sim.state()["executions"].values())
    with client(sim.base_url) as http:
        assert call(http).status_code == status
    assert sum(sim.state()["executions"].values()) == before


def test_redis_down_streaming(sim: Simulator) -> None:
    sim.faults(server={"name": "redis_down", "seconds": 0.01})
    received, closed = raw_post(sim.base_url, "streaming", "redis")
    assert closed
    assert received.endswith(b"event: ping\n\n\r\n")
    assert "redis" not in sim.state()["executions"]


def test_hang(sim: Simulator) -> None:
    sim.faults(server="hang")
    assert raw_post(sim.base_url, "blocking", "hang", timeout=SILENT) == (b"", False)
    assert "hang" not in sim.state()["executions"]
