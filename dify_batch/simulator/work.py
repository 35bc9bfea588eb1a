"""The slow node: how long a run takes, and the waiting for it, which a stop ends."""

from __future__ import annotations

import asyncio
import math
import random

from .apps import App, Inputs
from .channel import PING
from .config import Config
from .faults import Fault
from .narration import live_part, put
from .runs import Form, Run


def latency_of(config: Config, run: Run, nth: int, fault: Fault) -> float:
    """Seconds that the slow node takes in the `nth` execution of this row."""
    if fault.name == "rate_limited":
        return 0.0
    if fault.latency is not None:
        return fault.latency
    if fault.name == "slow_answer" and run.mode == "streaming" and fault.seconds is not None:
        return fault.seconds
    base, tail = config.latency, config.latency_tail
    if tail is None:
        return base
    if callable(tail):
        return base + tail(run.row, nth)
    rng = random.Random(f"{run.row}:{nth}")  # noqa: S311  # the same tail in every invocation
    return base * math.exp(rng.gauss(0.0, tail))


async def wait_unless_stopped(config: Config, run: Run, seconds: float) -> bool:
    """Waits as the slow node does, pinging; True as soon as a stop is asked for."""
    live = live_part(run)
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not live.stop and (left := end - loop.time()) > 0:
        wake = live.wake = loop.create_future()
        timer = loop.call_later(min(left, config.ping_interval), _wake, wake)
        try:
            await wake
        finally:
            timer.cancel()
            live.wake = None
        if left > config.ping_interval and not live.stop:
            put(run, PING)
    return live.stop


def stop(run: Run, user: str) -> None:
    """Ends that waiting, for that user."""
    if run.live is not None:
        run.live.stop, run.live.stopped_by = True, user
        if run.live.wake is not None:
            _wake(run.live.wake)


def _wake(wake: asyncio.Future[None]) -> None:
    if not wake.done():
        wake.set_result(None)


def outputs_of(app: App, inputs: Inputs, form: Form | None) -> Inputs:
    """What the workflow makes of its inputs, and of the form if a person filled one in."""
    if app.human and form is not None and app.mode == "advanced-chat":
        return {"answer": f"approved {form.answers.get('comment')}", "files": []}
    if app.human and form is not None:
        return {"comment": form.answers.get("comment"), "query": inputs.get("query")}
    return app.answer(inputs)
