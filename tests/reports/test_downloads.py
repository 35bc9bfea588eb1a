"""The files that outputs point to, downloaded: against a server that answers as each test says."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from dify_batch.backoff import Backoff
from dify_batch.errors import StorageError, UsageError
from dify_batch.ledger.disk import Disk
from dify_batch.reports.downloads import FilesReport, download
from tests.support.raw_server import Connection, RawServer, serving
from tests.support.result_tables import JOURNAL, put, result

AT_ONCE = Backoff(0.0, 0.0)
CONTENT = b"0123456789" * 1000


def given(url: str, name: str = "a.bin", size: int = len(CONTENT), media: str = "") -> dict[str, Any]:
    return {"dify_model_identity": "__dify__file__", "filename": name, "url": url, "size": size, "mime_type": media}


def output(folder: Path, *files: Any, server: str = "") -> Path:
    """Results of the rows r1, r2, ..., each with one file."""
    records = [result(f"r{number}", {}, {"doc": file}) for number, file in enumerate(files, 1)]
    return put(folder, records, [JOURNAL[0] | ({"server": server} if server else {})])


async def fetch(results: Path, **more: Any) -> FilesReport:
    return await download(results, results.parent / "files", backoff=AT_ONCE, **more)


def below(folder: Path) -> dict[str, bytes]:
    """All that is in the folder, but the list."""
    files = (path for path in (folder / "files").rglob("*") if path.is_file())
    return {str(path.relative_to(folder / "files")): path.read_bytes() for path in files if path.name != "files.jsonl"}


async def whole(connection: Connection) -> None:
    while True:
        await connection.request()
        await connection.answer(200, CONTENT, content_type="application/octet-stream")


def root(server: RawServer) -> str:
    return server.url.removesuffix("/v1")


async def test_what_has_come_is_not_asked_for_again(tmp_path: Path) -> None:
    async with serving(whole) as server:
        results = output(tmp_path, given(root(server) + "/a"), given(root(server) + "/b", "b.bin", -1))
        first = await fetch(results)
        assert (first.files, first.downloaded, first.present, first.failed) == (2, 2, 0, [])
        assert below(tmp_path) == {"r1/a.bin": CONTENT, "r2/b.bin": CONTENT}
        again = await fetch(results)
        assert (again.files, again.downloaded, again.present) == (2, 0, 2)
        assert len(server.seen) == 2
        # Cut by whatever, it is fetched anew.
        (tmp_path / "files" / "r1" / "a.bin").write_bytes(CONTENT[:-1])
        third = await fetch(results)
        assert (third.downloaded, third.present) == (1, 1)
        assert below(tmp_path)["r1/a.bin"] == CONTENT


async def test_files_of_all_parts(tmp_path: Path) -> None:
    async with serving(whole) as server:
        results = output(tmp_path, given(root(server) + "/a"), given(root(server) + "/b"))
        for number, line in enumerate(results.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
            results.with_name(f"{results.stem}.{number}of2.jsonl").write_bytes(line + b"\n")
            results.with_name(f"{results.stem}.{number}of2.jsonl.journal").write_bytes(
                results.with_name(results.name + ".journal").read_bytes()
            )
        for path in (results, results.with_name(results.name + ".journal")):
            path.unlink()
        assert (await fetch(results)).downloaded == 2
        assert set(below(tmp_path)) == {"r1/a.bin", "r2/a.bin"}


async def test_a_row_that_was_run_again_has_its_new_file(tmp_path: Path) -> None:
    async with serving(whole) as server:
        await fetch(output(tmp_path, given(root(server) + "/old")))
        report = await fetch(output(tmp_path, given(root(server) + "/new")))
        assert (report.downloaded, [seen.target for seen in server.seen]) == (1, ["/old", "/new"])


async def test_no_credentials_go_to_anybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFY_API_KEY", "app-secret-secret")
    async with serving(whole) as server:
        url = f"http://me:word@127.0.0.1:{server.port}/a"
        assert (await fetch(output(tmp_path, given(url)))).downloaded == 1
        (seen,) = server.seen
        assert not {"authorization", "cookie", "referer"} & seen.headers.keys()
        assert "secret" not in str(seen)


async def test_a_link_without_a_host_leads_to_the_batch_s_server(tmp_path: Path) -> None:
    async with serving(whole) as server:
        results = output(tmp_path, given("/files/x"), server=f"127.0.0.1:{server.port}/v1")
        assert (await fetch(results)).downloaded == 1
    report = await fetch(output(tmp_path, given("/files/y")))
    assert [one.reason for one in report.failed] == ["its link names no host, and the journal no server"]


async def test_redirects_are_followed_and_bounded(tmp_path: Path) -> None:
    async def script(connection: Connection) -> None:
        while True:
            seen = await connection.request()
            if seen.target == "/for-ever":
                await connection.answer(302, b"", location="/for-ever")
            elif seen.target == "/elsewhere":
                await connection.answer(302, b"", location="file:///etc/passwd")
            elif seen.target == "/moved":
                await connection.answer(307, b"", location="b")
            else:
                await connection.answer(200, CONTENT, content_type="application/octet-stream")

    async with serving(script) as server:
        urls = [root(server) + path for path in ("/moved", "/for-ever", "/elsewhere")]
        report = await fetch(output(tmp_path, *map(given, urls)))
    assert report.downloaded == 1
    reasons = {one.row: one.reason for one in report.failed}
    assert reasons == {"r2": "more than 5 redirects", "r3": "its link is neither http nor https"}


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://", "http://[", "data:text/plain,x", "//host/x"]
)
async def test_what_is_no_address(tmp_path: Path, url: str) -> None:
    report = await fetch(output(tmp_path, given(url)))
    assert len(report.failed) == 1
    assert report.failed[0].reason.startswith("its link is ")


async def test_a_cut_is_gone_on_with_where_the_server_can(tmp_path: Path) -> None:
    async def script(connection: Connection) -> None:
        while True:
            seen = await connection.request()
            if (found := seen.headers.get("range")) is None:
                head = f'HTTP/1.1 200 OK\r\netag: "v1"\r\ncontent-length: {len(CONTENT)}\r\n\r\n'
                await connection.send(head.encode(), CONTENT[:4000])
                return
            start = int(found.removeprefix("bytes=").removesuffix("-"))
            span = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
            await connection.answer(206, CONTENT[start:], etag='"v1"', content_range=span)

    async with serving(script) as server:
        report = await fetch(output(tmp_path, given(root(server) + "/a", size=-1)))
        assert (report.downloaded, report.size) == (1, len(CONTENT))
        assert [seen.headers.get("range") for seen in server.seen] == [None, "bytes=4000-"]
    assert below(tmp_path) == {"r1/a.bin": CONTENT}


async def test_a_part_of_other_content_is_not_gone_on_with(tmp_path: Path) -> None:
    """The file changes on the server between two invocations, at the same length."""
    version = 1

    async def script(connection: Connection) -> None:
        while True:
            seen = await connection.request()
            content = CONTENT if version == 1 else CONTENT.replace(b"0", b"x")
            tag = f'"v{version}"'
            if (found := seen.headers.get("range")) is not None:
                start = int(found.removeprefix("bytes=").removesuffix("-"))
                span = f"bytes {start}-{len(content) - 1}/{len(content)}"
                await connection.answer(206, content[start:], etag=tag, content_range=span)
            elif version == 1:
                head = f"HTTP/1.1 200 OK\r\netag: {tag}\r\ncontent-length: {len(content)}\r\n\r\n"
                await connection.send(head.encode(), content[:4000])
                await connection.until_closed()
            else:
                await connection.answer(200, content, etag=tag)

    async with serving(script) as server:
        results = output(tmp_path, given(root(server) + "/a"))
        killed = asyncio.create_task(fetch(results))
        while not any(len(data) == 4000 for data in below(tmp_path).values()):
            await asyncio.sleep(0)
        killed.cancel()
        await asyncio.gather(killed, return_exceptions=True)
        version = 2
        assert (await fetch(results)).downloaded == 1
    assert below(tmp_path) == {"r1/a.bin": CONTENT.replace(b"0", b"x")}


async def test_a_cut_is_tried_again_and_leaves_nothing_behind(tmp_path: Path) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n", CONTENT[:100])

    async with serving(script) as server:
        report = await fetch(output(tmp_path, given(root(server) + "/a")))
        assert len(server.seen) == 4
    assert report.failed[0].reason.startswith("it broke off")
    assert below(tmp_path) == {}


@pytest.mark.parametrize(
    ("size", "body", "media", "said"),
    [
        (5, b"123456", "text/plain", "more than the 5 bytes"),
        (0, b"1", "text/plain", "more than the 0 bytes"),
        (7, b"123456", "text/plain", "6 of the 7 bytes"),
        (-1, b"<html>log in</html>", "text/html; charset=utf-8", "a page came in place of the file"),
    ],
)
async def test_what_is_not_the_file_is_not_kept(tmp_path: Path, size: int, body: bytes, media: str, said: str) -> None:
    async def script(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.answer(200, body, content_type=media)

    async with serving(script) as server:
        report = await fetch(output(tmp_path, given(root(server) + "/a", size=size)))
    assert said in report.failed[0].reason
    assert below(tmp_path) == {}


@pytest.mark.parametrize(("status", "asked"), [(404, 1), (403, 1), (500, 4), (429, 4)])
async def test_what_may_pass_is_tried_again(tmp_path: Path, status: int, asked: int) -> None:
    async def script(connection: Connection) -> None:
        while True:
            await connection.request()
            body = json.dumps({"code": "not_found", "message": "no such file", "status": status}).encode()
            await connection.answer(status, body)

    async with serving(script) as server:
        report = await fetch(output(tmp_path, given(root(server) + "/a")))
        assert len(server.seen) == asked
    assert report.failed[0].reason == f"HTTP {status}: no such file"


async def test_nobody_listens(tmp_path: Path) -> None:
    async with serving(whole) as server:
        url = root(server)
    report = await fetch(output(tmp_path, given(url + "/a")))
    assert "cannot connect" in report.failed[0].reason
    assert "row r1, doc: r1/a.bin: " in report.text()


async def test_a_link_in_the_folder_leads_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    async with serving(whole) as server:
        results = output(tmp_path, given(root(server) + "/a"), given(root(server) + "/b"))
        (tmp_path / "files" / "r2").mkdir(parents=True)
        (tmp_path / "files" / "r1").symlink_to(outside)
        (outside / "b.bin").write_bytes(b"mine")
        (tmp_path / "files" / "r2" / "a.bin").symlink_to(outside / "b.bin")
        report = await fetch(results, force=True)
    assert len(report.failed) == 2
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == {"b.bin": b"mine"}


async def test_a_folder_that_holds_other_things_is_not_written_into(tmp_path: Path) -> None:
    results = output(tmp_path, given("http://127.0.0.1:9/a"))
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "mine.txt").touch()
    with pytest.raises(UsageError, match="holds other things"):
        await fetch(results)
    for other in ("results.jsonl", "no/such/files"):
        with pytest.raises(UsageError):
            await download(results, tmp_path / other)


async def test_a_full_disk_is_told_and_what_has_come_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Disk, fd: int, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    async with serving(whole) as server:
        results = output(tmp_path, given(root(server) + "/a"))
        with monkeypatch.context() as patch:
            patch.setattr(Disk, "write", full)
            with pytest.raises(StorageError, match="No space left"):
                await fetch(results)
        assert (await fetch(results)).downloaded == 1


async def test_a_torn_list_is_mended(tmp_path: Path) -> None:
    async with serving(whole) as server:
        results = output(tmp_path, given(root(server) + "/a"), given(root(server) + "/b"))
        await fetch(results)
        list_ = tmp_path / "files" / "files.jsonl"
        list_.write_bytes(list_.read_bytes()[:-20])
        assert (await fetch(results)).downloaded == 1
        assert (await fetch(results)).present == 2
