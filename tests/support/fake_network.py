"""A network that is not there: requests go to a server's protocol, and what it writes is looked at."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any


class FakeTransport(asyncio.Transport):
    """The server's end of a connection; what the server writes stands in `sent`."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.protocol = protocol
        self.sent = bytearray()
        self.aborted = False
        self._closing = False
        self._changed = asyncio.Event()
        protocol.connection_made(self)

    def write(self, data: Any) -> None:
        self.sent += data
        self._changed.set()

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        """By the server, or, from outside, by the client."""
        if not self._closing:
            self._closing = True
            self._changed.set()
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def abort(self) -> None:
        self.aborted = True
        self.close()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    async def until(self, holds: Callable[[bytes], bool]) -> bytes:
        """What has been sent, once that is so or the connection closed."""
        while not holds(bytes(self.sent)) and not self._closing:
            self._changed.clear()
            await self._changed.wait()
        return bytes(self.sent)

    async def request(
        self, method: str, path: str, body: object = None, key: str = "app-demo", until: str | None = None
    ) -> bytes:
        """Everything that the server writes for one request: to the end of its answer, or until that text is there."""
        content = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: sim\r\nAuthorization: Bearer {key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        self.sent.clear()
        self.protocol.data_received(head.encode() + content)
        return await self.until(_whole if until is None else lambda sent: until.encode() in sent)


def _whole(answer: bytes) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    if length is not None:
        return len(body) >= int(length.group(1))
    return body.endswith(b"0\r\n\r\n")
