"""One connection between coordinator and worker: messages over a loopback socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket

from dify_batch.scale.messages import LONGEST, Message, decode, encode

HOST = "127.0.0.1"
ADDRESS, TOKEN = "DIFY_BATCH_COORDINATOR", "DIFY_BATCH_WORKER_TOKEN"
"""What a worker finds in its environment: where the coordinator listens, and what shows that it is its worker."""


class Wire:
    """Sending never waits: what is said is little, and whoever does not listen any more is told nothing."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        sock = writer.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, message: Message) -> None:
        if not self._writer.is_closing():
            self._writer.write(encode(message))

    async def receive(self) -> Message | None:
        """The next message; None once the other side has gone. Raises Garbled."""
        try:
            line = await self._reader.readline()
        except (OSError, ValueError):  # ValueError: a line that is too long
            return None
        return decode(line) if line.endswith(b"\n") else None

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    @classmethod
    async def to(cls, port: int) -> Wire:
        """Raises OSError."""
        return cls(*await asyncio.open_connection(HOST, port, limit=LONGEST))
