"""A kept connection is taken again only if nothing has come on it since: an answer sent twice is nobody's."""

from __future__ import annotations

import asyncio
import json

import pytest

from dify_batch.dify.client import DifyClient
from dify_batch.outcomes import Succeeded
from tests.dify.client.parts import KEY, run
from tests.support.raw_server import Connection, serving


def body_of(run_id: str) -> bytes:
    data = {"id": run_id, "status": "succeeded", "outputs": {"of": run_id}}
    return json.dumps({"workflow_run_id": run_id, "task_id": run_id, "data": data}).encode()


@pytest.mark.parametrize("together", [True, False])
async def test_an_answer_that_was_doubled_does_not_become_the_next_rows(together: bool) -> None:
    async def doubles(connection: Connection) -> None:
        for number in range(3):
            await connection.request()
            body = body_of(f"r{connection.number}-{number}")
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
            if together:
                await connection.send((head + body) * 2)
            else:
                await connection.send(head + body)
                await connection.send(head + body)

    async with serving(doubles) as server, DifyClient(server.url, KEY) as client:
        seen = []
        for _ in range(4):
            outcome = await run(client, mode="blocking")
            assert isinstance(outcome, Succeeded)
            seen.append(outcome.result.ref.run_id)
            if not together:  # it may still be under way: the next request goes when the bytes have come
                await asyncio.to_thread(lambda: None)
        assert len(set(seen)) == 4
        assert server.connections == 4


async def test_a_silent_connection_is_taken_again() -> None:
    async def well_behaved(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.answer(200, body_of("r"))

    async with serving(well_behaved) as server, DifyClient(server.url, KEY) as client:
        for _ in range(5):
            assert isinstance(await run(client, mode="blocking"), Succeeded)
        assert server.connections == 1
