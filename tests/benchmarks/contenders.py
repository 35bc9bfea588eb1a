"""The others, each as a process of its own: what is compared with.

    python -m tests.benchmarks.contenders NAME ORIGIN MODE CONCURRENCY ROWS.CSV OUT

None of them keeps a journal; what each does with its answers is said at its name.
"""

from __future__ import annotations

import asyncio
import csv
import json
import re
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

HEADERS = {"Authorization": "Bearer app-benchmark"}
Body = dict[str, Any]
Ask = Callable[[Body], Awaitable[object]]


def bodies(path: Path, mode: str) -> Iterator[Body]:
    """The request of each row."""
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield {"inputs": {"query": row["query"]}, "response_mode": mode, "user": "benchmark"}


def replaced(origin: str, rows: Path, out: Path) -> None:
    """The replaced tool's way: requests, one row at a time; each success rewrites the file of what is left."""
    import requests

    left = list(bodies(rows, "blocking"))
    count = len(left)
    for number in range(count):
        answer = requests.post(f"{origin}/v1/workflows/run", headers=HEADERS, json=left[number], timeout=60)
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(answer.json(), ensure_ascii=False) + "\n")
        rest = "".join(f"{row}\n" for row in range(number + 1, count))
        out.with_suffix(".retry").write_text(rest, encoding="utf-8")


async def _loop(ask: Ask, source: Iterator[Body], concurrency: int) -> None:
    """Nothing but workers that take row after row."""

    async def work() -> None:
        for body in source:
            await ask(body)

    await asyncio.gather(*(work() for _ in range(concurrency)))


async def httpx_loop(origin: str, rows: Path, mode: str, concurrency: int) -> None:
    """A bare loop over stock httpx: no files at all."""
    import httpx

    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with httpx.AsyncClient(limits=limits, timeout=60, headers=HEADERS) as client:
        url = f"{origin}/v1/workflows/run"

        async def ask(body: Body) -> object:
            if mode == "blocking":
                return (await client.post(url, json=body)).json()
            async with client.stream("POST", url, json=body) as answer:
                return [json.loads(line[5:]) async for line in answer.aiter_lines() if line.startswith("data:")]

        await _loop(ask, bodies(rows, mode), concurrency)


async def aiohttp_loop(origin: str, rows: Path, mode: str, concurrency: int) -> None:
    """A bare loop over aiohttp: no files at all."""
    import aiohttp

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=HEADERS) as session:
        url = f"{origin}/v1/workflows/run"

        async def ask(body: Body) -> object:
            async with session.post(url, json=body) as answer:
                if mode == "blocking":
                    return await answer.json()
                return [json.loads(line[5:]) async for line in answer.content if line.startswith(b"data:")]

        await _loop(ask, bodies(rows, mode), concurrency)


async def groups(origin: str, rows: Path, mode: str, size: int) -> None:
    """Dify's web page: so many at a time, and the next ones when the slowest has ended."""
    import aiohttp

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=HEADERS) as session:

        async def ask(body: Body) -> None:
            async with session.post(f"{origin}/v1/workflows/run", json=body) as answer:
                await answer.read()

        group: list[Body] = []
        for body in bodies(rows, mode):
            group.append(body)
            if len(group) == size:
                await asyncio.gather(*map(ask, group))
                group.clear()
        await asyncio.gather(*map(ask, group))


_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


async def raw(origin: str, rows: Path, mode: str, concurrency: int) -> None:
    """Prepared bytes over raw sockets, answers hardly looked at: what the server bears at most."""
    port = int(origin.rpartition(":")[2])
    requests = []
    for body in bodies(rows, mode):
        text = json.dumps(body).encode()
        head = f"POST /v1/workflows/run HTTP/1.1\r\nHost: benchmark\r\nContent-Length: {len(text)}\r\n\r\n"
        requests.append(head.encode() + text)
    source = iter(requests)
    end = b"\r\n0\r\n\r\n"

    class Client(asyncio.Protocol):
        def __init__(self) -> None:
            self.done = asyncio.get_running_loop().create_future()
            self.data = b""

        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            self.send()

        def send(self) -> None:
            request = next(source, None)
            if request is None:
                self.done.set_result(None)
            else:
                self.transport.write(request)

        def data_received(self, data: bytes) -> None:
            if mode == "streaming":
                self.data = self.data[-8:] + data
                if not self.data.endswith(end):
                    return
            else:
                self.data += data
                at = self.data.find(b"\r\n\r\n")
                found = _LENGTH.search(self.data)
                if at < 0 or not found or len(self.data) < at + 4 + int(found[1]):
                    return
            self.data = b""
            self.send()

    loop = asyncio.get_running_loop()
    clients = [(await loop.create_connection(Client, "127.0.0.1", port))[1] for _ in range(concurrency)]
    await asyncio.gather(*(client.done for client in clients))


LOOPS = {"httpx": httpx_loop, "aiohttp": aiohttp_loop, "groups": groups, "raw": raw}


def main() -> None:
    name, origin, mode, concurrency, rows, out = sys.argv[1:]
    if name == "requests":
        replaced(origin, Path(rows), Path(out))
    else:
        asyncio.run(LOOPS[name](origin, Path(rows), mode, int(concurrency)))


if __name__ == "__main__":
    main()
