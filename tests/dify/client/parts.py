"""What the client's tests share: a mocked Dify's address, and what a Dify on real sockets does."""

from __future__ import annotations

from typing import Any

from dify_batch.dify.client import DifyClient
from dify_batch.outcomes import Outcome, RunRef
from tests.support.raw_server import Connection, Script

BASE = "http://dify.test/v1"
KEY = "app-very-secret"
PING = b"event: ping\n\n"
STARTED = b'data: {"event":"workflow_started","workflow_run_id":"r1","task_id":"t1","data":{"id":"r1"}}\n\n'
FINISHED = (
    b'data: {"event":"workflow_finished","workflow_run_id":"r1","task_id":"t1",'
    b'"data":{"status":"succeeded","outputs":{"a":"\xc3\xa9"}}}\n\n'
)
REF = RunRef("r1", "t1")


async def run(client: DifyClient, **changes: Any) -> Outcome:
    """A run with the settings that a test does not mind."""
    settings: dict[str, Any] = {"user": "u-1", "mode": "streaming", "timeout": 10.0} | changes
    return await client.run({"query": "hé"}, **settings)


async def hangs(connection: Connection) -> None:
    """Takes a request and never answers."""
    await connection.request()
    await connection.until_closed()


def streams(*chunks: bytes, then: Script | None = None) -> Script:
    """Sends these chunks of a stream and leaves it open, or goes on with `then`."""

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.begin_stream()
        for chunk in chunks:
            await connection.chunk(chunk)
        if then is None:
            await connection.until_closed()
        else:
            await then(connection)

    return script
