"""The proxy variables, against a real proxy process that says what passes through it."""

from __future__ import annotations

import base64
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dify_batch.dify.client import DifyClient
from dify_batch.dify.proxies import proxy_for
from dify_batch.errors import ConnectionFailed, UsageError
from dify_batch.outcomes import Succeeded, Unreachable
from tests.support.raw_server import Connection, RawServer, self_made_certificate, serving
from tests.support.wire_files import recorded

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUEST_METHOD")
BASIC = "Basic " + base64.b64encode(b"me:p@ss word").decode()


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


class Proxy:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self.port = int(process.stdout.readline())

    def passed(self) -> list[str]:
        """Ends the proxy and gives its lines."""
        self.process.terminate()
        return self.process.communicate(timeout=10)[0].splitlines()


@contextmanager
def proxy(*arguments: str) -> Iterator[Proxy]:
    command = [sys.executable, str(Path(__file__).parent.parent / "support" / "proxy_process.py"), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Proxy(process)
        finally:
            process.terminate()


async def dify(connection: Connection) -> None:
    await connection.request()
    await connection.replay(recorded("01-blocking-success"))


async def send(server: RawServer) -> object:
    async with DifyClient(server.url, "app-secret") as client:
        return await client.run({"query": "hello"}, user="u", mode="blocking", timeout=10)


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
async def test_plain_http_goes_through_the_proxy(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy() as between:
        monkeypatch.setenv(variable, f"http://127.0.0.1:{between.port}")
        async with serving(dify) as server:
            assert isinstance(await send(server), Succeeded)
        assert between.passed() == [f"POST http://127.0.0.1:{server.port}/v1/workflows/run -"]
        assert server.seen[0].headers["authorization"] == "Bearer app-secret"


async def test_credentials_of_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy("--only", BASIC) as between:
        monkeypatch.setenv("HTTP_PROXY", f"http://me:p%40ss%20word@127.0.0.1:{between.port}")
        async with serving(dify) as server:
            assert isinstance(await send(server), Succeeded)
        assert between.passed()[0].endswith(BASIC)
        assert "proxy-authorization" not in server.seen[0].headers


@pytest.mark.parametrize("no_proxy", ["127.0.0.1", "*", "10.0.0.0/8, 127.0.0.0/8", "example.com,127.0.0.1:{port}"])
async def test_no_proxy(no_proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy() as between:
        async with serving(dify) as server:
            monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{between.port}")
            monkeypatch.setenv("NO_PROXY", no_proxy.replace("{port}", str(server.port)))
            assert isinstance(await send(server), Succeeded)
        assert between.passed() == []


async def test_a_dead_proxy_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy() as between:
        monkeypatch.setenv("HTTP_PROXY", f"http://me:secret@127.0.0.1:{between.port}")
        between.passed()
        async with serving(dify) as server:
            outcome = await send(server)
        assert isinstance(outcome, Unreachable)
        assert "proxy" in outcome.message
        assert "secret" not in outcome.message
        assert server.seen == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_made_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def tls(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


async def test_https_goes_through_a_tunnel(tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy("--only", BASIC) as between:
        monkeypatch.setenv("https_proxy", f"me:p%40ss%20word@127.0.0.1:{between.port}")  # http:// may be left out
        async with serving(dify, tls=tls) as server:
            assert isinstance(await send(server), Succeeded)
        assert between.passed() == [f"CONNECT 127.0.0.1:{server.port} {BASIC}"]
        assert "proxy-authorization" not in server.seen[0].headers


@pytest.mark.parametrize(("arguments", "status"), [(("--refuse",), "403"), (("--only", BASIC), "407")])
async def test_a_refused_tunnel_is_unreachable(
    tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], status: str
) -> None:
    with proxy(*arguments) as between:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{between.port}")
        async with serving(dify, tls=tls) as server:
            outcome = await send(server)
            assert isinstance(outcome, Unreachable)
            assert status in outcome.message
            async with DifyClient(server.url, "app-secret") as client:
                with pytest.raises(ConnectionFailed, match=status):
                    await client.info()
        assert server.seen == []


@pytest.mark.parametrize("scheme", ["socks5", "socks4", "socks5h"])
def test_socks_is_refused_before_anything_is_sent(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", f"{scheme}://me:secret@127.0.0.1:1080")
    with pytest.raises(UsageError, match="ALL_PROXY names a SOCKS proxy") as failure:
        DifyClient("http://dify.example/v1", "app-secret")
    assert "secret" not in f"{failure.value}{failure.value.hint}"


@pytest.mark.parametrize("value", ["http://", "ftp://x", "http://x:99999", "http://x:port"])
def test_what_is_no_proxy_is_refused(value: str) -> None:
    with pytest.raises(UsageError, match="HTTP_PROXY is not the URL of a proxy"):
        proxy_for("http://dify.example/v1", {"http": value})


def test_the_scheme_of_the_url_decides() -> None:
    environ = {"http": "http://a:1", "https": "http://b:2", "all": "http://c:3", "no": "internal.example"}
    assert proxy_for("http://dify.example/v1", environ) == ("http://a:1", None)
    assert proxy_for("https://dify.example/v1", environ) == ("http://b:2", None)
    assert proxy_for("https://dify.internal.example/v1", environ) is None
    assert proxy_for("https://dify.example/v1", {"all": "http://c:3"}) == ("http://c:3", None)
    assert proxy_for("https://dify.example/v1", {}) is None
