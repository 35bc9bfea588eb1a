"""Taking up a run again: its events and its run detail."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
import respx

from dify_batch.dify import client as client_module
from dify_batch.dify.client import DifyClient
from dify_batch.outcomes import (
    Fatal,
    Outcome,
    Paused,
    Running,
    RunRef,
    Succeeded,
    Unreachable,
)
from tests.dify.client.parts import KEY, PING, REF, hangs, streams
from tests.support.raw_server import Connection, Script, serving
from tests.support.wire_files import answer, recorded


def run_of(name: str) -> RunRef:
    """The run that a recorded exchange is about."""
    return RunRef(re.findall(rb'"(?:workflow_run_id|id)": ?"([^"]+)"', recorded(name).body)[0].decode())


async def followed(script: Script, ref: RunRef = RunRef("r1"), **changes: Any) -> Outcome:  # noqa: B008 - it is frozen
    settings: dict[str, Any] = {"user": "u", "timeout": 10.0} | changes
    async with serving(script) as server, DifyClient(server.url, KEY) as client:
        return await client.follow(ref, **settings)


async def test_follow_to_the_end() -> None:
    ref = run_of("24c-events-with-snapshot")
    outcome = await followed(streams(recorded("24c-events-with-snapshot").body), ref)
    assert isinstance(outcome, Succeeded)
    assert outcome.result.ref == ref


async def test_the_events_of_another_run_say_nothing() -> None:
    outcome = await followed(streams(recorded("24c-events-with-snapshot").body))
    assert outcome == Running(RunRef("r1"), "its stream told of another run")


async def test_follow_a_paused_run() -> None:
    outcome = await followed(streams(recorded("18e-events-paused-snapshot").body), run_of("18e-events-paused-snapshot"))
    assert isinstance(outcome, Paused)
    assert outcome.forms[0].token == "9ZFQ82UqXtIxE0Rt02oNUV"


async def test_follow_ends_with_its_timeout_pings_or_not() -> None:
    async def pings(connection: Connection) -> None:
        while True:
            await connection.chunk(PING)
            await asyncio.sleep(0.02)

    assert await followed(streams(then=pings), timeout=0.2) == Running(RunRef("r1"), "timeout: no end within 0.2 s")


async def test_follow_falls_silent() -> None:
    assert isinstance(await followed(streams(PING), silence=0.1), Running)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("24f-events-other-user", Running),
        ("24j-events-unknown-run", Running),
        ("24k-events-malformed-run", Unreachable),
        ("03-invalid-api-key", Fatal),
        ("13-run-detail-succeeded", Unreachable),
    ],
)
async def test_follow_refused(client: DifyClient, dify: respx.Router, name: str, kind: type) -> None:
    dify.get("/workflow/r1/events").mock(answer(name))
    assert type(await client.follow(REF, user="u", timeout=5)) is kind


async def test_run_detail(client: DifyClient, dify: respx.Router) -> None:
    ref = run_of("13-run-detail-succeeded")
    dify.get(f"/workflows/run/{ref.run_id}").mock(answer("13-run-detail-succeeded"))
    detail = await client.run_detail(ref)
    assert isinstance(detail.outcome, Succeeded)
    assert detail.outcome.result.ref == ref
    assert json.loads(detail.inputs or "")["sys.user_id"] == "user-detail"
    assert (detail.created_at, detail.status) == (1795307637, "succeeded")


async def test_the_detail_of_another_run_says_nothing(client: DifyClient, dify: respx.Router) -> None:
    dify.get("/workflows/run/r1").mock(answer("13-run-detail-succeeded"))
    assert (await client.run_detail(REF)).outcome == Unreachable("run detail told of another run")


async def test_run_detail_of_an_unknown_run(client: DifyClient, dify: respx.Router) -> None:
    dify.get("/workflows/run/r1").mock(answer("13d-run-detail-unknown"))
    assert (await client.run_detail(REF)).outcome is None


async def test_run_detail_that_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "LOOK_UP_TIMEOUT", 0.05)
    async with serving(hangs) as server, DifyClient(server.url, KEY) as client:
        outcome = (await client.run_detail(REF)).outcome
    assert isinstance(outcome, Unreachable)
    assert "0.05 s" in outcome.message
