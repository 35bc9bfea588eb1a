"""Recorded exchanges of a real Dify 1.14.2 server (tests/wire), as status, headers, body or stream."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import httpx

WIRE = Path(__file__).parent.parent / "wire"


@dataclass(frozen=True, slots=True)
class Recorded:
    status: int
    headers: dict[str, str]
    body: bytes


@cache
def recorded(name: str) -> Recorded:
    """The answer in tests/wire/<name>.json; `body` holds the whole stream where it was one."""
    response = json.loads((WIRE / f"{name}.json").read_text("utf-8"))["response"]
    text = response["body"] if "sse" not in response else "".join(chunk["data"] for chunk in response["sse"])
    headers = {key.lower(): value for key, value in response["headers"].items()}
    return Recorded(response["status"], headers, (text or "").encode())


def answer(name: str) -> httpx.Response:
    """A recorded answer for respx, with the headers that say something."""
    exchange = recorded(name)
    headers = {k: v for k, v in exchange.headers.items() if k in ("content-type", "date", "x-version", "location")}
    return httpx.Response(exchange.status, headers=headers, content=exchange.body)
