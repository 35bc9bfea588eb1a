"""A listening port of loopback that can be closed and opened again."""

from __future__ import annotations

import asyncio
import socket

from .http import HttpServer

HOST = "127.0.0.1"
BACKLOG = 2048  # gunicorn's: requests wait here unanswered rather than be refused


class Port:
    """One listening port.

    A second socket stays bound to it, without listening: connections are refused, yet nobody else gets the port.
    """

    def __init__(self, http: HttpServer, port: int) -> None:
        self.http = http
        self._reserve = _bound(port)
        self.number: int = self._reserve.getsockname()[1]
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listens, if it does not yet."""
        if self._server is None:
            listener = _bound(self.number)
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(self.http, sock=listener, backlog=BACKLOG)

    def close(self) -> None:
        """Refuses: no new connection, idle ones are closed, what is being answered is answered."""
        if self._server is not None:
            self._server.close()
            self._server = None
            self.http.close_idle()

    def destroy(self) -> None:
        """Lets go of the port and drops every connection."""
        self.close()
        self._reserve.close()
        self.http.drop()


def _bound(port: int) -> socket.socket:
    # With the protocol named, asyncio sets TCP_NODELAY; without it every answer waits 40 ms for a delayed ACK.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((HOST, port))
    except OSError as e:
        sock.close()
        raise OSError(e.errno, f"cannot listen on {HOST}:{port}: {e.strerror}; take another port, or 0") from e
    return sock
