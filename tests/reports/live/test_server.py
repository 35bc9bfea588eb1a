"""The live page's server: what it gives, to whom, and what it does while nobody looks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer

from dify_batch.cli.main import main
from dify_batch.errors import UsageError
from dify_batch.ledger.formats import json_line
from dify_batch.reports.live import server
from dify_batch.reports.live.server import LOOPBACK, Live, serve
from dify_batch.seams import REAL, RealThreads, Seams
from tests.support.result_tables import JOURNAL, put, result

T = TypeVar("T")


@asynccontextmanager
async def live(output: Path, seams: Seams = REAL) -> AsyncIterator[tuple[Live, Any]]:
    page = Live([output], seams, every=0.01 if seams is REAL else 0.0)
    async with TestClient(TestServer(page.app)) as client:
        watching = asyncio.create_task(page.watch())
        try:
            yield page, client
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return put(tmp_path, [result("a", {"q": "<img src=x onerror=alert(1)>"}, {"answer": "yes"})], JOURNAL)


async def event(stream: aiohttp.ClientResponse) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while True:
            line = await stream.content.readline()
            if line.startswith(b"data: "):
                found: dict[str, Any] = json.loads(line[6:])
                return found


async def test_a_viewer_is_told_of_what_is_new_and_fetches_it(output: Path) -> None:
    async with live(output) as (page, client), client.get(f"/{page.token}/events") as stream:
        assert stream.headers["Content-Type"] == "text/event-stream"
        first = await event(stream)
        rows = await (await client.get(f"/{page.token}/rows?from=0")).json()
        assert "a" in rows["columns"]["id"]
        figures = await (await client.get(f"/{page.token}/figures")).text()
        assert "4 rows: 1 success" in figures
        with output.open("ab") as file:
            file.write(json_line(result("b", {}, {})))
        second = await event(stream)
        assert (second["epoch"], second["version"] > first["version"]) == (first["epoch"], True)
        more = await (await client.get(f"/{page.token}/rows?from={len(rows['columns']['id'])}")).json()
        assert more["columns"]["id"] == ["b"]


async def test_the_page_allows_its_own_scripts_and_its_own_server_only(output: Path) -> None:
    async with live(output) as (page, client):
        answer = await client.get(f"/{page.token}/")
        text = await answer.text()
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Cache-Control"] == "no-store"
        assert "connect-src 'self'" in text.replace("&#39;", "'")
        assert "unsafe-inline'; img" in text.replace("&#39;", "'")  # of styles only


async def test_without_the_token_there_is_nothing(output: Path) -> None:
    async with live(output) as (page, client):
        for path in ("/", "/x/", f"/{page.token[:-1]}/", f"/{page.token[:-1]}/rows", f"/{page.token}x/events", "/ü/"):
            assert (await client.get(path)).status == 404
        assert len(page.token) >= 32


@pytest.mark.parametrize("method", ["post", "put", "delete", "patch"])
async def test_it_takes_nothing(output: Path, method: str) -> None:
    before = output.read_bytes()
    async with live(output) as (page, client):
        for path in ("", "rows", "events", "figures"):
            assert (await getattr(client, method)(f"/{page.token}/{path}")).status == 405
        assert (await client.get(f"/{page.token}/rows?from=x")).status == 400
    assert output.read_bytes() == before
    assert sorted(path.name for path in output.parent.iterdir()) == ["results.jsonl", "results.jsonl.journal"]


class AtOnce(RealThreads):
    """Work is done where it is asked for: it takes one turn of the loop."""

    async def run(self, work: Callable[[], T]) -> T:
        return work()


async def turns(number: int = 50) -> None:
    """So many turns of the loop: whoever would look at the files, without a pause between looks, has looked."""
    for _ in range(number):
        await asyncio.sleep(0)


async def test_nothing_is_read_while_nobody_looks(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    real = Live._look

    def counted(self: Live) -> bool:
        looks.append(1)
        return real(self)

    monkeypatch.setattr(Live, "_look", counted)
    async with live(output, Seams(threads=AtOnce())) as (page, client):
        await turns()
        assert looks == []
        async with client.get(f"/{page.token}/events") as stream:
            await event(stream)
        async with asyncio.timeout(10):
            while page._viewers:
                with output.open("ab") as file:  # a viewer that has gone is noticed at the next news
                    file.write(json_line(result(f"x{len(looks)}", {}, {})))
                await asyncio.sleep(0.02)
        await turns()
        seen = len(looks)
        await turns()
        assert len(looks) == seen


async def test_a_file_that_cannot_be_read_for_a_while_is_no_end(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with live(output) as (page, client):
        real = page._follow.poll
        calls = 0

        def sometimes() -> bool:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise PermissionError(13, "Permission denied")
            return real()

        monkeypatch.setattr(page._follow, "poll", sometimes)
        async with client.get(f"/{page.token}/events") as stream:
            await event(stream)
            await event(stream)
        assert "4 rows" in await (await client.get(f"/{page.token}/figures")).text()


async def test_it_serves_this_machine_until_it_is_ended(output: Path) -> None:
    told: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve([output], Seams(), ready=told.set_result))
    address = await asyncio.wait_for(told, 10)
    assert address.startswith(f"http://{LOOPBACK}:")
    async with aiohttp.ClientSession() as session, session.get(address) as answer:
        assert answer.status == 200
    port = int(address.split(":")[2].split("/")[0])
    with pytest.raises(UsageError, match=f"port {port} cannot be opened"):
        await serve([output], Seams(), port=port, ready=lambda _: None)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(address)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-o", "r.html", "--live"], "-o and --live contradict each other"),
        (["--port", "1"], "--port is of no use without --live"),
        (["--host", "::1"], "--host is of no use without --live"),
        ([], "-o/--output is missing"),
        (["--live", "--port", "x"], '--port: "x" is not a port'),
        (["--live", "--port", "65536"], '--port: "65536" is not a port'),
    ],
)
def test_wrong_calls(output: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str) -> None:
    assert main(["report", str(output), *flags]) == 2
    assert message in capsys.readouterr().err


def test_the_command_says_where(
    output: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def served(*_: object, ready: Any, **given: object) -> None:
        ready(f"http://{given['host']}:1/token/")
        raise KeyboardInterrupt

    monkeypatch.setattr(server, "serve", served)
    assert main(["report", str(output), "--live", "--host", "0.0.0.0"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "http://0.0.0.0:1/token/\n"
    assert "whoever can reach this machine" in shown.err
    assert main(["report", str(output.with_name("none.jsonl")), "--live"]) == 0  # `serve` itself looks for it
