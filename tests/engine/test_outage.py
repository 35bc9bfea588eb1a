"""The outage that all rows share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from dify_batch.engine.outage import Outage
from tests.support.clocks import GivenClock
from tests.support.owned_time import LoopClock, in_own_time


class Server:
    """What probes find: each answer once, the last one for ever."""

    def __init__(self, *answers: str | None) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.ended = 0

    async def probe(self) -> str | None:
        self.asked += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def outage(self, limit: float = 60, wait: float = 0.01) -> Outage:
        def on_limit() -> None:
            self.ended += 1

        return Outage(self.probe, lambda tries: wait, limit, on_limit, LoopClock())


async def within(seconds: float, work: Awaitable[bool]) -> bool:
    async with asyncio.timeout(seconds):
        return await work


@in_own_time
async def test_one_broken_connection_is_no_outage() -> None:
    outage = Server(None).outage()
    assert await outage.passed() is False
    outage.begin("cut")
    assert await within(1, outage.passed()) is False
    assert not outage.active
    assert not outage.confirmed


@in_own_time
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


@in_own_time
async def test_if_the_first_fails_too_the_next_one_goes_after_another_probe() -> None:
    server = Server("away", None)
    outage = server.outage()
    outage.begin("cut")
    assert await within(1, outage.passed()) is True
    outage.begin("cut again")
    assert await within(1, outage.passed()) is True
    assert server.asked == 3
    with outage.first(True):
        pass  # it told nothing of the server
    assert await within(1, outage.passed()) is True


@in_own_time
async def test_the_server_is_called_away_only_while_it_is() -> None:
    """It answers, but no place is free for the row that goes first, or that row's run takes long."""
    now = 0.0
    server = Server("refused", None)
    outage = Outage(server.probe, lambda tries: 0.01, 60, lambda: None, GivenClock(lambda: now))

    def away() -> bool:
        return outage.away

    outage.begin("refused")
    assert not away(), "one request failed, which may have been that one's fault"
    async with asyncio.timeout(5):
        while server.asked < 2:
            assert not outage.confirmed or away()
            await asyncio.sleep(0.001)
    assert await within(1, outage.passed()) is True
    assert away(), "the row that goes first may be refused at once"
    now = 6.0
    assert outage.active
    assert not away()
    outage.begin("refused again")
    assert away()
    outage.close()


@in_own_time
async def test_throttling_is_not_probed() -> None:
    server = Server(None)
    outage = server.outage()
    outage.begin("Too many requests", throttled=True)
    assert await within(1, outage.passed()) is True
    assert server.asked == 0


@in_own_time
async def test_an_outage_ends_the_batch_when_it_lasts_too_long() -> None:
    server = Server("away")
    outage = server.outage(limit=0.05)
    outage.begin("refused")
    await asyncio.sleep(0.06)
    assert server.ended == 1
    outage.close()
    assert await within(1, outage.passed()) is False


@in_own_time
async def test_waiting_for_a_row_to_send_is_no_outage() -> None:
    server = Server("away", None)
    outage = server.outage(limit=0.2)
    outage.begin("refused")
    await asyncio.sleep(0.4)
    assert await within(1, outage.passed()) is True
    outage.begin("refused once more")
    assert await within(1, outage.passed()) is True
    assert server.ended == 0


@in_own_time
async def test_a_row_that_goes_first_and_says_nothing_lets_the_next_one_go() -> None:
    """As when its upload was rejected: the batch must not wait for ever."""
    outage = Server("refused", None).outage()
    outage.begin("refused")
    assert await within(1, outage.passed()) is True
    try:
        with outage.first(True):
            raise RuntimeError("whatever")
    except RuntimeError:
        pass
    assert await within(1, outage.passed()) is True
