"""What coordinator and workers tell each other."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

import pytest

from dify_batch.ids import Shard
from dify_batch.scale.crew import Crew, Member
from dify_batch.scale.handing import handed, received
from dify_batch.scale.messages import (
    Done,
    Figures,
    Garbled,
    Grant,
    Hello,
    Log,
    Message,
    Part,
    Report,
    Stop,
    decode,
    encode,
)
from dify_batch.scale.wire import Wire
from dify_batch.seams import REAL
from dify_batch.settings import Settings

KEY = "app-Ab12Cd34Ef56Gh78Ij90Kl12"
ALL: tuple[Message, ...] = (
    Hello(token="t", pid=3),
    Report(beat=1.5, used=3, dropped=1, busy=2, want=60, started=(0.1,), uses=((10, {"USD": "0.1"}), (None, None))),
    Figures(part=3, numbers={"success": 4, "failures": [["code", "text", 2]]}),
    Log(level=30, text="näheres\nfolgt", row="r1"),
    Done(part=3, summary={"rows": 4}, error={"code": "rows_failed", "message": "m"}),
    Part(part=3, of=8, settings={"input": "data.csv"}, most=4, again=("--mode", "auto"), checked=(1, 2, 3, 4)),
    Grant(beat=1.5, count=3),
    Grant(beat=1.5, after=(0.0, 0.01)),
    Stop(how="drain"),
)


@pytest.mark.parametrize("message", ALL, ids=lambda one: one.kind)
def test_each_message_is_one_line_and_comes_back(message: Message) -> None:
    line = encode(message)
    assert line.count(b"\n") == 1
    again = decode(line)
    assert json.loads(encode(again)) == json.loads(line)
    assert type(again) is type(message)


@pytest.mark.parametrize(
    "line", [b"", b"x\n", b"[]\n", b"{}\n", b'{"kind":"none"}\n', b'{"kind":"stop"}\n', b'{"kind":"stop","who":1}\n']
)
def test_what_is_none_of_them(line: bytes) -> None:
    with pytest.raises(Garbled):
        decode(line)


def test_settings_arrive_without_the_key_and_without_what_is_the_coordinator_s(tmp_path: Path) -> None:
    settings = Settings(
        input="data.csv",
        output=tmp_path / "results.jsonl",
        api_key=KEY,  # type: ignore[arg-type]
        base_url="https://dify.example.com/v1",
        workers=4,
        concurrency=7,
        rate=3.0,
        max_cost=Decimal("2.5"),
        timeout=33.0,
        retry_policy="all",
        delimiter=";",
        ids=tmp_path / "ids.txt",
        expect=tmp_path / "schema.json",
        constants={"tone": "formal"},
        notify=("https://example.com/hook",),
        quiet=True,
    )
    told = json.loads(json.dumps(handed(settings)))
    assert KEY not in json.dumps(told)
    assert "hook" not in json.dumps(told)
    again = received(told, Shard(8, 3), concurrency=8, api_key=KEY, base_url="http://x/v1")
    assert (again.shard, again.workers, again.rate, again.max_cost, again.quiet) == (
        Shard(8, 3),
        None,
        None,
        None,
        False,
    )
    assert (again.timeout, again.retry_policy, again.delimiter, again.constants) == (
        33.0,
        "all",
        ";",
        {"tone": "formal"},
    )
    assert (again.mode, again.ids, again.output) == ("streaming", settings.ids, settings.output)
    assert again.results.name == "results.3of8.jsonl"


class Crewed:
    def __init__(self) -> None:
        self.ready: list[Member] = []
        self.refused: list[str] = []
        self.gone: list[int] = []
        self.crew = Crew(
            {},
            30,
            REAL,
            ready=self.ready.append,
            heard=lambda member, message: None,
            gone=lambda member, status: self.gone.append(status),
            refused=self.refused.append,
        )

    @property
    def port(self) -> int:
        assert self.crew._server is not None
        port: int = self.crew._server.sockets[0].getsockname()[1]
        return port


@asynccontextmanager
async def crewed() -> AsyncIterator[Crewed]:
    found = Crewed()
    await found.crew.open()
    try:
        yield found
    finally:
        await found.crew.close()


async def until(condition: object) -> None:
    async with asyncio.timeout(20):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.01)


async def test_a_worker_of_another_version_is_refused() -> None:
    async with crewed() as found:
        wire = await Wire.to(found.port)
        wire.send(Hello(token="t", pid=1, version="0.0.1/0"))
        await until(lambda: found.refused)
        assert "version 0.0.1/0" in found.refused[0]
        assert await wire.receive() is None
        await wire.close()


async def test_whoever_does_not_know_the_token_is_not_listened_to() -> None:
    async with crewed() as found:
        for first in (Hello(token="guessed", pid=1), Stop(how="quit")):
            wire = await Wire.to(found.port)
            wire.send(first)
            assert await wire.receive() is None
            await wire.close()
        assert not found.ready


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
async def test_workers_come_are_told_to_quit_and_end() -> None:
    async with crewed() as found:
        await found.crew.start()
        await until(lambda: found.ready)
        (member,) = found.ready
        assert member.wire is not None
    assert found.gone == [0]
