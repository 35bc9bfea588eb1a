"""Connections that are kept for the next request, and which of them may be used for it.

An answer that a server or proxy sent twice must not become the next row's: a kept connection on which anything has
arrived since its last answer is closed. aiohttp looks at that when a connection comes back, not when it is taken again,
so its one method for taking is wrapped here; a test on real sockets fails if a new aiohttp has another.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Any

import aiohttp

from dify_batch.dify.fence import TooLate, require_in_time

if TYPE_CHECKING:
    from aiohttp import ClientTimeout
    from aiohttp.client_reqrep import ClientRequest, ConnectionKey
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace


class Connector(aiohttp.TCPConnector):
    """aiohttp's, which takes a kept connection again only if it is silent."""

    async def connect(self, req: ClientRequest, traces: list[Trace], timeout: ClientTimeout) -> Connection:
        connection = await super().connect(req, traces, timeout)
        try:
            require_in_time()
        except TooLate:
            connection.close()
            raise
        return connection

    async def _get(self, key: ConnectionKey, traces: list[Trace]) -> Connection | None:
        while (connection := await super()._get(key, traces)) is not None:
            protocol = connection.protocol
            if protocol is not None and not protocol.should_close and not _has_news(connection.transport):
                return connection
            connection.close()
        return None


def _has_news(transport: Any) -> bool:
    """Whether bytes, or the end of the connection, wait to be read: the event loop may not have come to them yet."""
    sock = None if transport is None else transport.get_extra_info("socket")
    if sock is None:
        return False
    if hasattr(select, "poll"):
        poller = select.poll()
        poller.register(sock.fileno(), select.POLLIN | select.POLLPRI)
        return bool(poller.poll(0))
    return bool(select.select([sock], [], [], 0)[0])
