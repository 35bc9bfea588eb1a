"""What is said about a certificate that is not trusted."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dify_batch.dify.certificates import hint, names_at, names_in
from dify_batch.dify.client import DifyClient
from dify_batch.errors import ConnectionFailed
from tests.dify.client.parts import KEY
from tests.support.raw_server import Connection, serving


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for other hosts than this one, which is trusted if SSL_CERT_FILE names it."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    key, cert, both = folder / "key.pem", folder / "cert.pem", folder / "both.pem"
    names = "subjectAltName=DNS:dify.example.com,DNS:*.example.org,IP:192.0.2.7"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=x"]
    command += ["-addext", names, "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    both.write_text(key.read_text() + cert.read_text())
    return both


async def nothing(connection: Connection) -> None:
    await connection.until_closed()


async def test_one_for_another_host_is_told_with_its_names(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(elsewhere))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(elsewhere)
    async with serving(nothing, tls=context) as server:
        assert await names_at("127.0.0.1", server.port) == ("dify.example.com", "*.example.org", "192.0.2.7")
        async with DifyClient(server.url, KEY) as client:
            with pytest.raises(ConnectionFailed) as failure:
                await client.parameters()
    assert failure.value.hint == (
        "the certificate is for dify.example.com, *.example.org, 192.0.2.7: name that host in DIFY_API_BASE_URL"
    )


async def test_no_server_has_no_names() -> None:
    assert await names_at("127.0.0.1", 1) == ()


@given(st.binary(max_size=80))
def test_whatever_the_bytes(data: bytes) -> None:
    names_in(data)
    names_in(b"\x06\x03\x55\x1d\x11" + data)
    names_in(b"\x06\x03\x55\x1d\x11\x04\x20\x30\x1e" + data)


def test_what_to_type() -> None:
    assert "SSL_CERT_FILE" in hint({})
    assert "SSL_CERT_FILE=/etc/ours.pem (REQUESTS_CA_BUNDLE is set" in hint({"REQUESTS_CA_BUNDLE": "/etc/ours.pem"})
    assert "REQUESTS" not in hint({"REQUESTS_CA_BUNDLE": "/x", "SSL_CERT_FILE": "/y"})
    assert hint({}, tuple("abcdefg")).startswith("the certificate is for a, b, c, d, e, …:")
