from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dify_batch.dify.watch import Silence


async def wait(scope: asyncio.Timeout) -> None:
    async with scope:
        await asyncio.Event().wait()


async def watched(scope: asyncio.Timeout, limit: float, *, stopped: bool = False) -> Silence:
    """Waits in the scope under a watch until one of them ends it."""
    watch = Silence(scope, limit)
    watch.start()
    if stopped:
        watch.stop()
    with pytest.raises(TimeoutError):
        await wait(scope)
    return watch


async def test_silence_ends_the_scope() -> None:
    assert (await watched(asyncio.timeout(60), 0.02)).expired


async def test_it_does_not_watch_after_its_stop() -> None:
    assert not (await watched(asyncio.timeout(0.1), 0.01, stopped=True)).expired


async def test_it_does_not_watch_before_its_start() -> None:
    scope = asyncio.timeout(0.1)
    watch = Silence(scope, 0.01)
    with pytest.raises(TimeoutError):
        await wait(scope)
    assert not watch.expired


async def test_the_deadline_and_the_silence_in_one_turn_of_the_loop() -> None:
    problems: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: problems.append(context))
    assert not (await watched(asyncio.timeout(0), 0)).expired
    assert problems == []
