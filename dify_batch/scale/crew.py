"""The worker processes of one batch: started, heard, told, and ended when they must be."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dify_batch.scale.messages import LONGEST, VERSION, Garbled, Hello, Message, Stop
from dify_batch.scale.wire import ADDRESS, HOST, TOKEN, Wire
from dify_batch.seams import Seams

log: logging.Logger = logging.getLogger("dify_batch")

_TOKEN = 32  # bytes
_END_WITHIN = 5.0  # seconds; a worker that was told to quit has nothing under way


@dataclass(slots=True, eq=False)
class Member:
    """One worker. `part`: what it has been given; `figures`: the last ones of that. `wire`: None until it has said
    hello."""

    number: int
    token: str
    process: asyncio.subprocess.Process
    wire: Wire | None = None
    part: int | None = None
    figures: dict[str, Any] = field(default_factory=dict)

    def send(self, message: Message) -> None:
        if self.wire is not None:
            self.wire.send(message)


class Crew:
    """Args:
    environment: of the workers: the key is in it. `level`: of their log.
    ready: called when a worker may be given something; `heard`: with each message; `gone`: when its process has ended,
        with the status; `refused`: when one of another version, or none of ours, has come.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        level: int,
        seams: Seams,
        *,
        ready: Callable[[Member], None],
        heard: Callable[[Member, Message], None],
        gone: Callable[[Member, int], None],
        refused: Callable[[str], None],
    ) -> None:
        self._environment = {**environment, "DIFY_BATCH_WORKER_LOG": str(level)}
        self._seams = seams
        self._ready, self._heard, self._gone, self._refused = ready, heard, gone, refused
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._made = 0
        self.members: dict[int, Member] = {}

    async def open(self) -> None:
        """Listens, on loopback alone."""
        self._server = await asyncio.start_server(self._connected, HOST, 0, limit=LONGEST)

    async def start(self) -> None:
        """One more worker."""
        assert self._server is not None
        token = self._seams.chance.token(_TOKEN)
        port = self._server.sockets[0].getsockname()[1]
        own = {"start_new_session": True}  # a Ctrl-C at the terminal is the coordinator's
        if os.name == "nt":
            own = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # type: ignore[attr-defined]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "dify_batch.scale.worker",
            env={**self._environment, ADDRESS: str(port), TOKEN: token},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            **own,  # type: ignore[arg-type]
        )
        self._made += 1
        member = Member(self._made, token, process)
        self.members[member.number] = member
        self._keep(self._watch(member))

    def _keep(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch(self, member: Member) -> None:
        status = await member.process.wait()
        self.members.pop(member.number, None)
        try:
            self._gone(member, status)
        except Exception as error:  # noqa: BLE001 - see _broken
            self._broken(error)
        if member.wire is not None:
            await member.wire.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = Wire(reader, writer)
        try:
            hello = await wire.receive()
            member = self._known(hello)
            if member is None:
                return
            member.wire = wire
            self._ready(member)
            while (message := await wire.receive()) is not None:
                self._heard(member, message)
            await self._end_soon(member)
        except Garbled as error:
            self._refused(str(error))
        except Exception as error:  # noqa: BLE001 - see _broken
            self._broken(error)
        finally:
            await wire.close()

    def _broken(self, error: Exception) -> None:
        """An error that nobody foresaw must not leave a batch waiting for ever."""
        log.debug("unexpected", exc_info=error)
        self._refused(f"internal error: {type(error).__name__}: {error}")

    def _known(self, hello: Message | None) -> Member | None:
        if not isinstance(hello, Hello):
            return None
        if hello.version != VERSION:
            self._refused(f"a worker of version {hello.version} has come, and this is {VERSION}")
            return None
        return next((one for one in self.members.values() if one.token == hello.token and one.wire is None), None)

    async def _end_soon(self, member: Member) -> None:
        """It speaks no more. Most often its process is about to end; else it is of no more use."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(member.process.wait()), _END_WITHIN)
        if member.process.returncode is None:
            self.end(member)

    def end(self, member: Member) -> None:
        """Ends a worker at once, whatever it does: what it has under way is in its journal."""
        with contextlib.suppress(ProcessLookupError):
            member.process.kill()

    async def close(self) -> None:
        """Ends all workers: those that have nothing to do by a word, within moments, the others at once."""
        for member in list(self.members.values()):
            member.send(Stop(how="quit"))
        deadline = self._seams.clock.monotonic() + _END_WITHIN
        while self.members and self._seams.clock.monotonic() < deadline:
            await asyncio.wait([*self._tasks], timeout=0.1)
        for member in list(self.members.values()):
            log.debug("worker %d does not end by itself", member.number)
            self.end(member)
        while self.members:
            await asyncio.wait([*self._tasks], timeout=0.1)
        if self._server is not None:
            self._server.close()
