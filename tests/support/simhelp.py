"""What the simulator's tests share: recorded exchanges, their normal form, raw connections, waiting."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

WIRE = Path(__file__).parent.parent / "wire"
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
LINK = re.compile(r"http://127\.0\.0\.1:\d+/files/\S+?/file-preview\?timestamp=\d+&nonce=\w+&sign=[\w%-]+")
CHANGING = {"created_at", "finished_at", "expiration_time", "elapsed_time", "sys.timestamp"}
HEADERS = ("content-type", "www-authenticate", "transfer-encoding", "cache-control", "x-version", "x-env")
LIMIT = 5.0  # seconds for anything that is expected to happen


def load(name: str) -> dict[str, Any]:
    """One recorded exchange."""
    exchange: dict[str, Any] = json.loads((WIRE / f"{name}.json").read_text(encoding="utf-8"))
    return exchange


def normal(value: Any, key: str = "") -> Any:
    """Keys in their order, fixed values as they are, and only the type of what changes from run to run."""
    if isinstance(value, dict):
        return [(k, normal(v, k)) for k, v in value.items()]
    if isinstance(value, list):
        return [normal(v) for v in value]
    if key == "inputs" and isinstance(value, str):
        return ("JSON text", normal(json.loads(value)))
    if key == "form_token":
        return f"token of {len(value)}"
    if key == "reference" and isinstance(value, str):
        return "dify-file-ref:..." if value.startswith("dify-file-ref:") else value
    if key == "version":
        return "a date"
    if key in CHANGING and value:
        return type(value).__name__
    if isinstance(value, str):
        return LINK.sub("<link>", UUID.sub("<id>", value) if "file-preview" not in value else value)
    return value


def normal_body(text: str) -> Any:
    """A JSON body in normal form, and whether it ends with a newline; other bodies as they are."""
    try:
        return normal(json.loads(text)), text.endswith("\n"), ": " in text
    except ValueError:
        return text


def normal_stream(text: str) -> list[Any]:
    """The events in order, each in normal form; pings as they are."""
    result: list[Any] = []
    for block in text.split("\n\n")[:-1]:
        if block.startswith("data: "):
            payload = block.removeprefix("data: ")
            result.append((normal(json.loads(payload)), '": ' in payload))
        else:
            result.append(block)
    return result


def recorded_stream(exchange: dict[str, Any]) -> str:
    """The text of a recorded stream."""
    return "".join(chunk["data"] for chunk in exchange["response"]["sse"])


def parse_events(text: str) -> list[dict[str, Any]]:
    """The data events of a stream; pings as {"event": "ping"}."""
    result: list[dict[str, Any]] = []
    for block in text.split("\n\n"):
        if block.startswith("data: "):
            result.append(json.loads(block.removeprefix("data: ")))
        elif block == "event: ping":
            result.append({"event": "ping"})
    return result


def names(text: str) -> list[str]:
    """The names of a stream's events, in order."""
    return [event["event"] for event in parse_events(text)]


def client(base_url: str, key: str = "app-demo") -> httpx.Client:
    """A client with a key. No environment: proxies are not for loopback; no certificates, which cost 50 ms."""
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.Client(base_url=base_url, headers=headers, timeout=LIMIT, trust_env=False, verify=False)


def post(http: httpx.Client, mode: str = "blocking", user: str = "u", **inputs: Any) -> httpx.Response:
    """A run with `inputs`; query is "hello" unless given."""
    body = {"inputs": {"query": "hello"} | inputs, "response_mode": mode, "user": user}
    return http.post("/workflows/run", json=body)


def stream_until(http: httpx.Client, last: str, user: str = "u", **inputs: Any) -> str:
    """Reads a streaming run up to the event `last` and leaves."""
    body = {"inputs": {"query": "hello"} | inputs, "response_mode": "streaming", "user": user}
    text = ""
    with http.stream("POST", "/workflows/run", json=body) as response:
        for part in response.iter_text():
            text += part
            if f'"event":"{last}"' in text and text.endswith("\n\n"):
                break
    return text


def raw_post(
    base_url: str, mode: str, row: str, *, key: str = "app-demo", timeout: float = LIMIT
) -> tuple[bytes, bool]:
    """(every byte until the server closes, or until `timeout` of silence; whether the server closed)."""
    address = urlsplit(base_url)
    body = json.dumps({"inputs": {"query": "héé 日本", "id": row}, "response_mode": mode, "user": "u"}).encode()
    head = (
        f"POST /v1/workflows/run HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    received = b""
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=timeout) as sock:
        sock.sendall(head.encode() + body)
        try:
            while part := sock.recv(65536):
                received += part
        except TimeoutError:
            return received, False
    return received, True


def eventually(holds: Callable[[], Any], limit: float = LIMIT) -> Any:
    """Asks until `holds()` is true, at most `limit` seconds; gives what it gave."""
    pause = threading.Event()
    tries = int(limit / 0.01)
    for _ in range(tries):
        value = holds()
        if value:
            return value
        pause.wait(0.01)
    raise AssertionError(f"not so within {limit} s: {holds!r}")
