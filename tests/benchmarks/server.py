"""A server that must not be the bottleneck: raw asyncio, prepared answers, a process of its own.

It speaks as much of Dify's API as a batch needs: the app's form, and POST /v1/workflows/run in both modes.

    python -m tests.benchmarks.server '{"latency": 0.2, "chunks": 20}'

prints its port. GET /stats tells what it has seen, POST /reset forgets it. Times are of the monotonic clock, which all
processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

FORM = json.dumps(
    {"user_input_form": [{"paragraph": {"variable": "query", "label": "Query", "type": "paragraph", "required": True}}]}
).encode()
INFO = b'{"name":"benchmark","description":"","tags":[],"mode":"workflow","author_name":""}'
REFUSED = b'{"code":"too_many_requests","message":"Too many requests. Please try again later.","status":429}'

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STREAMING = re.compile(rb'"response_mode": ?"streaming"')
_RUN = b"%08x-0000-4000-8000-%012x"

_STARTED = (
    b'data: {"event":"workflow_started","workflow_run_id":"%(run)s","task_id":"%(task)s","data":{"id":"%(run)s",'
    b'"workflow_id":"f602e65a-3722-49ad-b2dd-02dc75ba73f9","inputs":{"sys.files":[],"sys.user_id":"benchmark"},'
    b'"created_at":1795307004,"reason":"initial"}}\n\n'
)
_CHUNK = (
    b'data: {"event":"text_chunk","workflow_run_id":"%(run)s","task_id":"%(task)s","data":{"text":" some words",'
    b'"from_variable_selector":["end","answer"]}}\n\n'
)
_DATA = (
    b'{"id":"%(run)s","workflow_id":"f602e65a-3722-49ad-b2dd-02dc75ba73f9","status":"succeeded","outputs":%(outputs)s,'
    b'"error":null,"elapsed_time":%(elapsed).6f,"total_tokens":20,"total_steps":2,"created_at":1795307004,'
    b'"finished_at":1795307004}'
)
_FINISHED = (
    b'data: {"event":"workflow_finished","workflow_run_id":"%(run)s","task_id":"%(task)s","data":' + _DATA + b"}\n\n"
)
_WHOLE = b'{"task_id":"%(task)s","workflow_run_id":"%(run)s","data":' + _DATA + b"}"
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nServer: gunicorn\r\nDate: Sun, 22 Nov 2026 00:23:24 GMT\r\nTransfer-Encoding: chunked\r\n"
    b"Content-Type: text/event-stream; charset=utf-8\r\nX-Version: 1.14.2\r\nX-Env: PRODUCTION\r\n\r\n"
)


@dataclass(frozen=True, slots=True)
class Config:
    """How the server behaves.

    latency: seconds of a run; `tail`: sigma of a lognormal factor on it (mean 1). chunks: text_chunk events of a run,
    spread over it. events_per_second: if set, a stream sends so many until its latency is over. linger: seconds that a
    stream stays open after workflow_finished (Dify: 1). answer: bytes of the answer. phases: (seconds since the first
    POST, runs at once); beyond, a run waits, or with `refuse` is answered 429.
    """

    latency: float = 0.0
    tail: float = 0.0
    chunks: int = 0
    events_per_second: float = 0.0
    linger: float = 0.0
    answer: int = 100
    phases: Sequence[tuple[float, int]] = ()
    refuse: bool = False
    record: bool = False


@dataclass(slots=True)
class Seen:
    """What the server has seen. Times: of each POST; of each end; (time, in flight) where asked for."""

    posts: int = 0
    finished: int = 0
    refused: int = 0
    first: float = 0.0
    last: float = 0.0
    in_flight: int = 0
    peak: int = 0
    starts: array[float] = field(default_factory=lambda: array("d"))
    ends: array[float] = field(default_factory=lambda: array("d"))
    flights: list[tuple[float, int]] = field(default_factory=list)
    cpu: float = field(default_factory=time.process_time)

    def as_dict(self) -> dict[str, Any]:
        return {
            "posts": self.posts,
            "finished": self.finished,
            "refused": self.refused,
            "first": self.first,
            "last": self.last,
            "peak": self.peak,
            "cpu": time.process_time() - self.cpu,
            "starts": list(self.starts),
            "ends": list(self.ends),
            "flights": self.flights,
        }


class Server:
    """The runs: how long each takes, and which waits."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.seen = Seen()
        self.outputs = json.dumps({"answer": "x" * config.answer}, separators=(",", ":")).encode()
        self._random = random.Random(4)
        self._queue: deque[Callable[[], None]] = deque()
        self._busy = 0

    def posted(self) -> None:
        seen, now = self.seen, time.monotonic()
        seen.posts += 1
        seen.in_flight += 1
        seen.peak = max(seen.peak, seen.in_flight)
        if not seen.first:
            seen.first = now
            for since, _ in self.config.phases[1:]:
                asyncio.get_running_loop().call_later(since, self._serve)
        if self.config.record:
            seen.starts.append(now)
            seen.flights.append((now, seen.in_flight))

    def left(self, *, finished: bool) -> None:
        """A request has been answered, or its client has gone."""
        seen = self.seen
        seen.last = time.monotonic()
        seen.in_flight -= 1
        seen.finished += finished
        if self.config.record:
            seen.flights.append((seen.last, seen.in_flight))
            if finished:
                seen.ends.append(seen.last)

    def seconds(self) -> float:
        """Of the next run."""
        latency, tail = self.config.latency, self.config.tail
        return latency * self._random.lognormvariate(-tail * tail / 2, tail) if tail else latency

    def enter(self, start: Callable[[], None]) -> bool:
        """Starts a run now or when there is room; false if it is refused."""
        if not self.config.phases:
            start()
            return True
        if self._busy >= self._capacity() and self.config.refuse:
            self.seen.refused += 1
            return False
        self._queue.append(start)
        self._serve()
        return True

    def leave(self) -> None:
        """A run has ended."""
        if self.config.phases:
            self._busy -= 1
            self._serve()

    def _capacity(self) -> int:
        passed = time.monotonic() - self.seen.first
        return next(count for since, count in reversed(self.config.phases) if passed >= since)

    def _serve(self) -> None:
        while self._queue and self._busy < self._capacity():
            self._busy += 1
            self._queue.popleft()()


class Connection(asyncio.Protocol):
    """One connection; one request at a time on it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._data = b""
        self._wire: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._wire = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._wire = None

    def data_received(self, data: bytes) -> None:
        self._data = data = self._data + data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            found = _LENGTH.search(data, 0, end + 2)
            whole = end + 4 + (int(found[1]) if found else 0)
            if len(data) < whole:
                return
            self._request(data[:end], data[end + 4 : whole])
            self._data = data = data[whole:]

    def _send(self, data: bytes) -> None:
        if self._wire is not None:
            self._wire.write(data)

    def _answer(self, body: bytes, status: bytes = b"200 OK") -> None:
        self._send(
            b"HTTP/1.1 %s\r\nServer: gunicorn\r\nDate: Sun, 22 Nov 2026 00:23:24 GMT\r\nContent-Type: "
            b"application/json; charset=utf-8\r\nContent-Length: %d\r\nX-Version: 1.14.2\r\n\r\n%s"
            % (status, len(body), body)
        )

    def _request(self, head: bytes, body: bytes) -> None:
        target = head.split(b" ", 2)[1]
        server = self._server
        if target.endswith(b"/run"):
            self._run(body)
        elif target == b"/stats":
            self._answer(json.dumps(server.seen.as_dict()).encode())
        elif target == b"/reset":
            server.seen = Seen()
            self._answer(b"{}")
        else:
            self._answer(FORM if target.endswith(b"/parameters") else INFO)

    def _run(self, body: bytes) -> None:
        server = self._server
        server.posted()
        seconds = server.seconds()
        number = server.seen.posts
        names = {
            b"run": _RUN % (1, number),
            b"task": _RUN % (2, number),
            b"outputs": server.outputs,
            b"elapsed": seconds,
        }
        streaming = _STREAMING.search(body) is not None
        start = (lambda: self._stream(names, seconds)) if streaming else (lambda: self._whole(names, seconds))
        # Dify accepts a stream at once, and it starts late.
        if not server.enter(start):
            server.left(finished=False)
            self._answer(REFUSED, b"429 TOO MANY REQUESTS")

    def _whole(self, names: dict[bytes, Any], seconds: float) -> None:
        def end() -> None:
            self._answer(_WHOLE % names)
            self._server.left(finished=True)
            self._server.leave()

        if seconds:
            self._loop.call_later(seconds, end)
        else:
            end()

    def _stream(self, names: dict[bytes, Any], seconds: float) -> None:
        config, loop = self._server.config, self._loop
        self._send(_STREAM_HEAD + _framed(_STARTED % names))
        chunk = _framed(_CHUNK % names)
        count = config.chunks
        if config.events_per_second:
            count = int(seconds * config.events_per_second)
        began, sent = loop.time(), 0

        def go_on() -> None:
            nonlocal sent
            if sent < count and self._wire is not None:
                sent += 1
                self._send(chunk)
                loop.call_at(began + seconds * (sent + 1) / (count + 1), go_on)
            else:
                end()

        def end() -> None:
            self._send(_framed(_FINISHED % names))
            self._server.left(finished=True)
            self._server.leave()
            if config.linger:
                loop.call_later(config.linger, self._send, b"0\r\n\r\n")
            else:
                self._send(b"0\r\n\r\n")

        if seconds:
            loop.call_later(seconds / (count + 1), go_on)
            return
        for _ in range(count):  # each event a write of its own, as a server sends them
            self._send(chunk)
        end()


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def serve(config: Config) -> None:
    """Serves until standard input ends."""
    loop = asyncio.get_running_loop()
    state = Server(config)
    listening = socket.create_server(("127.0.0.1", 0), backlog=4096)
    # As gunicorn does. asyncio does it by itself only for sockets that it has made: events would wait 40 ms for an ACK.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server = await loop.create_server(lambda: Connection(state), sock=listening, backlog=4096)
    print(listening.getsockname()[1], flush=True)
    async with server:
        await loop.run_in_executor(None, sys.stdin.buffer.read)


if __name__ == "__main__":
    asyncio.run(serve(Config(**json.loads(sys.argv[1]))))
