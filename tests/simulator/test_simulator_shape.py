"""The shape of a real server, beside what was measured on one (28-throughput): queue, connections, listen queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from dify_batch.simulator import Config, HttpServer, Means, Site, site_server
from tests.support.fake_network import FakeTransport
from tests.support.owned_time import CountingChance, LoopClock, play

# What 28-throughput was measured on: two API processes of 10 connections, one worker of 4 places.
MEASURED = Config.docker(connections=20, api_processes=2, blocking_cpu=0.045, latency=0.0)


def site_of(config: Config) -> tuple[Site, HttpServer]:
    site = Site(config, Means(LoopClock(), CountingChance()))
    return site, site_server(site)


async def run(server: HttpServer, mode: str, row: str, *, leave_at: str | None = None) -> float:
    """One run over a connection of its own; gives the time of its end. leave_at: the client goes at that text."""
    connection = FakeTransport(server())
    body = {"inputs": {"query": "x", "id": row}, "response_mode": mode, "user": row}
    await connection.request("POST", "/v1/workflows/run", body, until=leave_at)
    connection.close()
    return asyncio.get_running_loop().time()


async def burst(config: Config, mode: str, count: int) -> tuple[list[float], float]:
    """(when each of `count` runs sent at once was told to have ended, how long a look-up sent after 1 s took)."""
    site, server = site_of(config)
    loop = asyncio.get_running_loop()
    finished = "workflow_finished" if mode == "streaming" else None
    ends: list[float] = []

    async def one(row: str) -> None:
        connection = FakeTransport(server())
        body = {"inputs": {"query": "x", "id": row}, "response_mode": mode, "user": row}
        await connection.request("POST", "/v1/workflows/run", body, until=finished)
        ends.append(loop.time())
        await connection.until(lambda sent: sent.endswith(b"0\r\n\r\n") or mode == "blocking")
        connection.close()

    runs = [asyncio.ensure_future(one(str(n))) for n in range(count)]
    await asyncio.sleep(1.0)
    asked = loop.time()
    await FakeTransport(server()).request("GET", "/v1/parameters")
    waited = loop.time() - asked
    await asyncio.gather(*runs)
    site.close()
    return sorted(ends), waited


@pytest.mark.parametrize(
    ("mode", "count", "measured_ends", "measured_look_up"),
    [
        ("blocking", 20, [3.1] + [3.4] * 19, 2.13),
        ("blocking", 40, [3.5] * 20 + [7.1] * 20, 5.85),
        ("streaming", 12, [3.3] * 4 + [6.6] * 4 + [9.8] * 4, 0.01),
        ("streaming", 30, [3.2 + 3.15 * (n // 4) for n in range(30)], 9.65),
    ],
)
def test_bursts_of_three_seconds_each(
    mode: str, count: int, measured_ends: list[float], measured_look_up: float
) -> None:
    ends, look_up = play(burst(MEASURED.changed({"latency": 3.0}), mode, count))
    assert ends == pytest.approx(measured_ends, rel=0.15)
    assert look_up == pytest.approx(measured_look_up, rel=0.15, abs=0.1)


async def rate(config: Config, mode: str, concurrency: int, leave_at: str | None) -> float:
    """Runs a second, of `concurrency` clients that send one after the other for a minute."""
    site, server = site_of(config)
    loop = asyncio.get_running_loop()
    count = 0

    async def client(number: int) -> None:
        nonlocal count
        while loop.time() < 60:
            await run(server, mode, f"{number}", leave_at=leave_at)
            count += 1

    await asyncio.gather(*(client(n) for n in range(concurrency)))
    site.close()
    return count / loop.time()


@pytest.mark.parametrize(
    ("mode", "concurrency", "leave_at", "measured"),
    [
        ("blocking", 1, None, 21.1),
        ("blocking", 4, None, 41.6),
        ("blocking", 16, None, 41.6),
        ("blocking", 32, None, 41.7),
        ("streaming", 1, None, 0.9),
        ("streaming", 4, None, 3.3),
        ("streaming", 8, None, 6.6),
        ("streaming", 16, None, 12.6),
        ("streaming", 32, None, 14.5),
        ("streaming", 1, "workflow_finished", 16.5),
        ("streaming", 16, "workflow_finished", 16.5),
    ],
)
def test_short_runs_a_second(mode: str, concurrency: int, leave_at: str | None, measured: float) -> None:
    assert play(rate(MEASURED, mode, concurrency, leave_at)) == pytest.approx(measured, rel=0.2)


@pytest.mark.parametrize(("mode", "low", "high"), [("streaming", 7, 9.5), ("blocking", 21, 32)])
def test_the_default_size(mode: str, low: float, high: float) -> None:
    """One API process of 10 connections: 8 a second in streaming mode at any concurrency, 21 to 32 in blocking mode."""
    finished = "workflow_finished" if mode == "streaming" else None
    for concurrency in (8, 16):
        assert low <= play(rate(Config.docker(latency=0.0), mode, concurrency, finished)) <= high


def test_stops_and_details_wait_in_the_listen_queue_too() -> None:
    async def story() -> list[float]:
        site, server = site_of(Config(connections=1, latency=5.0))
        loop = asyncio.get_running_loop()
        long = asyncio.ensure_future(run(server, "blocking", "long"))
        await asyncio.sleep(1)
        assert site.api.listening == 0

        async def ask(method: str, path: str) -> float:
            await FakeTransport(server()).request(method, path, {"user": "u"})
            return loop.time()

        stop = asyncio.ensure_future(ask("POST", f"/v1/workflows/tasks/{site.state()['runs'][0]['task_id']}/stop"))
        detail = asyncio.ensure_future(ask("GET", f"/v1/workflows/run/{site.state()['runs'][0]['id']}"))
        await asyncio.sleep(1)
        assert site.api.listening == 2
        return list(await asyncio.gather(long, stop, detail))

    assert play(story()) == [5.0, 5.0, 5.0]


def test_a_stream_keeps_its_connection_when_its_client_has_gone() -> None:
    """For a second after its end; and for as long as nothing is written on it before that."""

    async def story(leave_at: str) -> float:
        _, server = site_of(Config(connections=1, latency=5.0))
        await run(server, "streaming", "leaves", leave_at=leave_at)
        await FakeTransport(server()).request("GET", "/v1/info")
        return asyncio.get_running_loop().time()

    assert play(story("workflow_finished")) == 6.0
    assert play(story("workflow_started")) == 5.0


def test_a_client_that_gives_up_in_the_listen_queue_is_served_all_the_same() -> None:
    async def story() -> dict[str, int]:
        site, server = site_of(Config(connections=1, latency=5.0))
        long = asyncio.ensure_future(run(server, "blocking", "long"))
        waiting = FakeTransport(server())
        body = {"inputs": {"query": "x", "id": "left"}, "response_mode": "streaming", "user": "u"}
        asyncio.ensure_future(waiting.request("POST", "/v1/workflows/run", body))  # noqa: RUF006
        await asyncio.sleep(1)
        waiting.close()
        await long
        await asyncio.sleep(10)
        return site.ledger.counts

    assert play(story()) == {"long": 1, "left": 1}


def starts(config: Config, count: int, deeds: Callable[[Site], Coroutine[Any, Any, None]] | None = None) -> list[float]:
    """When each of `count` streaming runs sent at once begins, in the order of sending; inf: not within a day."""

    async def story() -> list[float]:
        site, server = site_of(config)
        for n in range(count):
            connection = FakeTransport(server())
            body = {"inputs": {"query": "x", "id": str(n)}, "response_mode": "streaming", "user": "u"}
            await connection.request("POST", "/v1/workflows/run", body, until="ping")
        if deeds is not None:
            await deeds(site)
        await asyncio.sleep(86400)
        begun = {execution.row: execution.begun for execution in site.ledger.executions}
        return [begun.get(str(n), float("inf")) for n in range(count)]

    return play(story())


def test_first_in_first_out_without_overtaking() -> None:
    assert starts(Config(latency=25.0), 6) == [0, 0, 0, 0, 25, 25]


def test_rows_sent_together_overtake_each_other() -> None:
    """As seen on a real server: of six, others than the first four began at once (design of the protocol)."""
    begun = starts(Config(latency=25.0, overtaking=0.05), 6)
    assert sum(at < 1 for at in begun) == 4
    assert max(begun[:4]) > 25
    assert max(begun) < 26


def test_a_reserved_task_waits_behind_a_long_run_while_a_worker_is_idle() -> None:
    begun = starts(Config(latency=25.0, workers=1, worker_processes=2, prefetch=1), 4)
    assert begun == [0, 0, 25, 25]
    config = Config(workers=1, worker_processes=2, prefetch=1, latency_tail=lambda row, _: 100.0 if row == "0" else 1.0)
    assert starts(config, 4) == pytest.approx([0, 0, 100.2, 1.2])  # the third was reserved behind the first
    assert starts(config.changed({"prefetch": 0}), 4) == pytest.approx([0, 0, 1.2, 2.4])


def test_no_worker_for_a_while() -> None:
    async def come_back(site: Site) -> None:
        await asyncio.sleep(600)
        site.restart("worker")

    async def story(site: Site) -> None:
        site.crash("worker")
        await come_back(site)

    assert starts(Config(latency=1.0, workers=2), 3, story) == [0, 0, 600]
    assert starts(Config(latency=1.0, workers=0), 1) == [float("inf")]


def test_what_a_killed_worker_had_reserved_comes_back_after_long() -> None:
    async def kill_one(site: Site) -> None:
        await asyncio.sleep(1)
        site.crash("worker", 0)

    config = Config(latency=25.0, workers=1, worker_processes=2, prefetch=1)
    assert starts(config, 4, kill_one) == [0, 0, 3601, 25]
