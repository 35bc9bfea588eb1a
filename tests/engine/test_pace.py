"""The exact pauses, in a time of their own; and the outage that all rows share."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable

import pytest

from dify_batch.engine.pace import Outage, Starts


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def starts_of(starts: Starts, clock: Clock, seconds: float, late: Callable[[], float]) -> list[float]:
    """The moments of all starts within some seconds, each timer a little late."""
    moments: list[float] = []
    end = clock.now + seconds
    while True:
        clock.now += max(0.0, starts.claim()) + late()
        if clock.now >= end:
            return moments
        moments.append(clock.now)


@pytest.mark.parametrize("rate", [0.5, 5, 100, 1000])
def test_the_rate_is_kept_within_one_percent_and_never_exceeded(rate: float) -> None:
    clock, rng = Clock(), random.Random(1)
    moments = starts_of(Starts(rate=rate, clock=clock), clock, 60, lambda: rng.uniform(0, min(0.002, 0.5 / rate)))
    assert len(moments) == pytest.approx(60 * rate, rel=0.01, abs=1)
    for first, moment in enumerate(moments):
        in_one_second = sum(1 for later in moments[first : first + int(rate) + 30] if later < moment + 1)
        assert in_one_second <= rate * 1.01 + 1


def test_after_a_pause_there_is_no_burst() -> None:
    clock = Clock()
    starts = Starts(rate=10, clock=clock)
    starts.claim()
    clock.now += 30
    waits = []
    for _ in range(5):
        waits.append(max(0.0, starts.claim()))
        clock.now += waits[-1]
    assert waits[0] == 0
    assert sum(waits) == pytest.approx(0.4, abs=0.02)


def test_wait_is_the_least_time_between_two_starts() -> None:
    clock, rng = Clock(), random.Random(2)
    moments = starts_of(Starts(wait=0.5, clock=clock), clock, 60, lambda: rng.uniform(0, 0.002))
    assert min(later - earlier for earlier, later in itertools.pairwise(moments)) >= 0.5 - 0.002
    assert len(moments) == pytest.approx(120, rel=0.01, abs=1)


def test_without_rate_and_wait_nothing_is_spaced() -> None:
    assert not Starts().spaced
    assert Starts().claim() <= 0


class Server:
    """What probes find: each answer once, the last one for ever."""

    def __init__(self, *answers: str | None) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.ended: list[tuple[str, bool]] = []

    async def probe(self) -> str | None:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def outage(self, limit: float = 60, wait: float = 0.01) -> Outage:
        return Outage(
            self.probe, lambda tries: wait, limit, lambda reason, throttled: self.ended.append((reason, throttled))
        )


async def within(seconds: float, work: Awaitable[bool]) -> bool:
    async with asyncio.timeout(seconds):
        return await work


async def test_one_broken_connection_is_no_outage() -> None:
    outage = Server(None).outage()
    assert await outage.passed() is False
    outage.begin("cut")
    assert await within(1, outage.passed()) is False
    assert not outage.active
    assert not outage.confirmed


async def test_a_confirmed_outage_lets_one_go_first_and_the_rest_when_it_was_served() -> None:
    server = Server("refused", "refused", None)
    outage = server.outage()
    outage.begin("refused")
    waiters = [asyncio.create_task(outage.passed()) for _ in range(5)]
    done, pending = await asyncio.wait(waiters, timeout=1, return_when=asyncio.FIRST_COMPLETED)
    assert [task.result() for task in done] == [True]
    await asyncio.sleep(0.05)
    assert not any(task.done() for task in pending)
    assert outage.confirmed
    assert server.asked == 3
    outage.answered()
    assert await asyncio.gather(*pending) == [False] * 4


async def test_if_the_first_fails_too_the_next_one_goes_after_another_probe() -> None:
    server = Server("away", None)
    outage = server.outage()
    outage.begin("cut")
    assert await within(1, outage.passed()) is True
    outage.begin("cut again")
    assert await within(1, outage.passed()) is True
    assert server.asked == 3
    outage.not_gone()
    assert await within(1, outage.passed()) is True


async def test_throttling_is_not_probed() -> None:
    server = Server(None)
    outage = server.outage()
    outage.begin("Too many requests", throttled=True)
    assert await within(1, outage.passed()) is True
    assert server.asked == 0


async def test_an_outage_ends_the_batch_when_it_lasts_too_long() -> None:
    server = Server("away")
    outage = server.outage(limit=0.05)
    outage.begin("refused")
    async with asyncio.timeout(2):
        while not server.ended:
            await asyncio.sleep(0.01)
    assert server.ended == [("away", False)]
    outage.close()
    assert await within(1, outage.passed()) is False


async def test_waiting_for_a_row_to_send_is_no_outage() -> None:
    server = Server("away", None)
    outage = server.outage(limit=0.2)
    outage.begin("refused")
    await asyncio.sleep(0.4)
    assert await within(1, outage.passed()) is True
    outage.begin("refused once more")
    assert await within(1, outage.passed()) is True
    assert server.ended == []
