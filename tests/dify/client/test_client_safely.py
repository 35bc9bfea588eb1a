"""What certainly did not start is sent again, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import pytest

from dify_batch.backoff import Backoff
from dify_batch.dify.client import DifyClient
from dify_batch.outcomes import Failed, Lost, Outcome, Rejected, Succeeded, Throttled, Unreachable
from dify_batch.seams import Seams
from tests.dify.client.parts import BASE, KEY
from tests.support.owned_time import LoopClock, play
from tests.support.wire_files import answer

Answer = Callable[[], httpx.Response]


def safely(answers: list[Answer], max_retries: int = 3) -> tuple[Outcome, list[float]]:
    """The outcome, and when each request came."""
    times: list[float] = []

    async def dify(_: httpx.Request) -> httpx.Response:
        times.append(asyncio.get_running_loop().time())
        return answers[min(len(times), len(answers)) - 1]()

    async def story() -> Outcome:
        seams = Seams(LoopClock())
        async with DifyClient(BASE, KEY, transport=httpx.MockTransport(dify), seams=seams) as client:
            client.answered = True
            return await client.run_safely(
                {"q": "x"}, user="u", mode="blocking", timeout=30, max_retries=max_retries, backoff=Backoff()
            )

    return play(story()), times


def GOOD() -> httpx.Response:
    return answer("01-blocking-success")


def refused() -> httpx.Response:
    raise httpx.ConnectError("refused")


def limited() -> httpx.Response:
    return httpx.Response(429, headers={"retry-after": "7"}, json={"code": "too_many_requests", "message": "slow"})


def test_what_did_not_start_is_sent_again() -> None:
    outcome, times = safely([refused, lambda: httpx.Response(404, text="404 page not found"), limited, GOOD])
    assert isinstance(outcome, Succeeded)
    assert len(times) == 4
    assert times[3] - times[2] == pytest.approx(7)


def test_not_for_ever() -> None:
    outcome, times = safely([refused], max_retries=2)
    assert isinstance(outcome, Unreachable)
    assert len(times) == 3
    outcome, times = safely([limited], max_retries=0)
    assert isinstance(outcome, Throttled)
    assert len(times) == 1


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (lambda: httpx.Response(502), Lost),
        (lambda: answer("15-failed-blocking"), Failed),
        (lambda: answer("05-missing-required-blocking"), Rejected),
    ],
)
def test_what_may_have_started_is_not(given: Answer, kind: type) -> None:
    outcome, times = safely([given])
    assert isinstance(outcome, kind)
    assert len(times) == 1
