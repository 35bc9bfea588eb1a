"""A network within the process: connections that delay, break and repeat themselves, as a history says.

Everything that crosses it is bytes between two asyncio protocols; what they mean it does not know. Each end has the
context (contextvars) of whoever owns it, so that what arrives at the server is the server's doing.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import os
import random
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

from tests.world.history import Cut, Network

NOTHING_FOR = 1e7  # seconds: a connection that never comes about


class End(asyncio.Transport):
    """One end of a connection."""

    def __init__(self, wire: Wire, up: bool, context: contextvars.Context, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self._wire = wire
        self._up = up  # what is written here goes to the server
        self._loop = wire.loop
        self.context = context
        self._protocol: Any = protocol
        self._closing = self.lost = self._paused = False
        self._held: list[bytes] = []
        self.peer: End

    # --- asyncio's side

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._closing and data:
            self._wire.carry(self, bytes(data), self._up)

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(bytes(data) for data in list_of_data))

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return 0, 1 << 16

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("10.0.0.1", 40000), "sockname": ("10.0.0.2", 80)}.get(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return not self._paused and not self._closing

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            held, self._held = self._held, []
            for data in held:
                self._loop.call_soon(self.arrive, data, context=self.context)

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._wire.end(self, None)
            self._loop.call_soon(self.lose, None, context=self.context)

    def abort(self) -> None:
        self.close()

    # --- the wire's side

    def arrive(self, data: bytes) -> None:
        if self.lost or self._closing:
            return
        if self._paused:
            self._held.append(data)
        else:
            self._protocol.data_received(data)

    def lose(self, error: Exception | None) -> None:
        """The connection is gone, as the owner gets to see it."""
        self._closing = True
        if not self.lost:
            self.lost = True
            if error is None and not self._wire.dead(self):
                self._protocol.eof_received()
            self._protocol.connection_lost(error)

    def forget(self) -> None:
        """The owner is dead: it hears nothing, the peer hears that the connection broke."""
        if not self.lost:
            self._closing = self.lost = True
            self._wire.end(self, ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"))


class Wire:
    """One connection. `cut`: where it breaks."""

    def __init__(self, world: WorldNetwork, number: int, cuts: tuple[Cut, ...], owner: object) -> None:
        self.loop = world.loop
        self.number = number
        self.owner = owner
        self._world = world
        self._left = {side: min((c.after for c in cuts if c.side == side), default=None) for side in ("up", "down")}
        self._due = {"up": 0.0, "down": 0.0}
        self.broken = False
        self.client: End
        self.server: End

    def dead(self, end: End) -> bool:
        return end.lost and end is self.client

    def carry(self, end: End, data: bytes, up: bool) -> None:
        if self.broken:
            return
        side = "up" if up else "down"
        left = self._left[side]
        if left is not None:
            self._left[side] = left - len(data)
            if len(data) > left:
                if data[:left]:
                    self._later(side, end.peer.arrive, data[:left], end.peer)
                self.snap(side)
                return
        self._later(side, end.peer.arrive, data, end.peer)
        if not up and not data.startswith(b"HTTP/") and self._world.doubled():
            self._later(side, end.peer.arrive, data, end.peer)

    def end(self, end: End, error: Exception | None) -> None:
        if not self.broken:
            self._later("up" if end is self.client else "down", end.peer.lose, error, end.peer)

    def snap(self, side: str) -> None:
        """It breaks: nothing more gets through, and both ends notice after what is under way."""
        self.broken = True
        self._world.log(f"connection {self.number} is cut ({side})")
        for end in (self.client, self.server):
            error = ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
            self._later("down" if end is self.client else "up", end.lose, error, end)

    def _later(self, side: str, call: Callable[[Any], None], value: Any, end: End) -> None:
        self._due[side] = due = max(self._due[side] + 1e-6, self.loop.time() + self._world.delay())
        self.loop.call_at(due, call, value, context=end.context)


class WorldNetwork:
    """All connections of a world. `refuses`: the server's port is closed; `swallows`: nobody answers a connect."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, weather: Network, chance: random.Random, log: Callable[[str], None]
    ) -> None:
        self.loop = loop
        self.log = log
        self.weather = weather
        self._chance = chance
        self._made = self._carried = 0
        self._wires: list[Wire] = []
        self._serve: Callable[[], asyncio.BaseProtocol]
        self._server_context: contextvars.Context
        self.refuses = self.swallows = False

    def listen(self, serve: Callable[[], asyncio.BaseProtocol], context: contextvars.Context) -> None:
        self._serve, self._server_context = serve, context

    def delay(self) -> float:
        low, high = self.weather.delay
        return self._chance.uniform(low, high)

    def doubled(self) -> bool:
        self._carried += 1
        return self._carried in self.weather.doubled

    async def connect(self, protocol: asyncio.BaseProtocol, owner: object) -> None:
        """Raises OSError where the server does not take it."""
        await asyncio.sleep(self.delay())
        if self.swallows:
            await asyncio.sleep(NOTHING_FOR)
        if self.refuses or getattr(owner, "dead", False):
            raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        self._made += 1
        wire = Wire(self, self._made, tuple(c for c in self.weather.cuts if c.connection == self._made), owner)
        served = self._server_context.run(self._serve)
        client = wire.client = End(wire, True, contextvars.copy_context(), protocol)
        server = wire.server = End(wire, False, self._server_context, served)
        client.peer, server.peer = server, client
        self._wires = [old for old in self._wires if not (old.client.lost and old.server.lost)]
        self._wires.append(wire)
        client.context.run(protocol.connection_made, client)
        self._server_context.run(served.connection_made, server)

    def drop(self, owner: object) -> None:
        """The owner is dead: its ends are closed by the system, and it notices nothing."""
        for wire in self._wires:
            if wire.owner is owner:
                wire.client.forget()

    def reset(self) -> None:
        """The server's process is dead: all connections break."""
        for wire in self._wires:
            if not wire.broken:
                wire.snap("server")


class WorldConnector(aiohttp.BaseConnector):
    """aiohttp's way into this network."""

    allowed_protocol_schema_set = frozenset({"", "http", "tcp"})

    def __init__(self, network: WorldNetwork, owner: object, keepalive: float) -> None:
        super().__init__(limit=0, keepalive_timeout=keepalive)
        self._network = network
        self._owner = owner

    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> ResponseHandler:
        protocol: ResponseHandler = self._factory()
        try:
            await self._network.connect(protocol, self._owner)
        except OSError as error:
            raise aiohttp.ClientConnectorError(req.connection_key, error) from error
        return protocol
