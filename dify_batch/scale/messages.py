"""What coordinator and workers tell each other: small typed messages, one JSON object a line. Pure.

A worker says `Hello` first, with the version of its program; one of another version is refused, so that both always
mean the same. Then it gets one `Part` after the other.

    worker → coordinator   Hello, Report (what became of permits), Figures (for whoever watches), Log, Done
    coordinator → worker   Part, Grant, Stop
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeAlias

from dify_batch._version import __version__

PROTOCOL = 1
"""Raised with each change of a message."""

VERSION = f"{__version__}/{PROTOCOL}"
LONGEST = 1 << 24
"""Bytes of a line: settings with many constants, a summary with a thousand paused rows."""


class Garbled(ValueError):
    """A line that is none of these messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """`token`: what the coordinator gave this worker at its start."""

    kind: ClassVar[str] = "hello"
    token: str
    pid: int
    version: str = VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of permits. Each number counts from the worker's start, but `busy` and `want`, which are of now.

    `beat`: the worker's monotonic clock. `used`, `dropped`: permits that let a row go, or ran out. `ended`: rows that
    gave their place back. `busy`: rows that hold a place; `lost`: rows that are looked up. `want`: permits that could
    be used. `failed`: rows. `outage`: why this worker waits for the server. `at`: the part whose leftovers from before
    have been looked at; 0 for none.
    `started`, `finished`, `looked`, `throttled`, `uses`: of the time since the last report, as `Limit` and `Budget` are
    told.
    """

    kind: ClassVar[str] = "report"
    beat: float
    used: int
    dropped: int
    busy: int
    want: int
    lost: int = 0
    ended: int = 0
    failed: int = 0
    outage: str = ""
    at: int = 0
    started: tuple[float, ...] = ()
    finished: tuple[float, ...] = ()
    looked: tuple[float, ...] = ()
    throttled: int = 0
    uses: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The live figures of the part under way, by the names of `Stats`."""

    kind: ClassVar[str] = "figures"
    part: int
    numbers: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """A line of the worker's log. `row`: the id of the row that it is about."""

    kind: ClassVar[str] = "log"
    level: int
    text: str
    row: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A part has come to its end. `error`: {"code", "message", "hint", ...}, None where all went well."""

    kind: ClassVar[str] = "done"
    part: int
    summary: dict[str, Any]
    error: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part to run, of `of`. `collect`: only what is under way is followed to its end. `times`, `use`: whether the
    coordinator wants to hear how long runs took, and what they used. The others: see `Placed`."""

    kind: ClassVar[str] = "part"
    part: int
    of: int
    settings: dict[str, Any]
    most: int
    again: tuple[str, ...] = ()
    limit: int | None = None
    checked: tuple[int, ...] | None = None
    collect: bool = False
    times: bool = False
    use: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Permits. `beat`: the newest that the coordinator had heard of; they hold for a lifetime from then on, by the
    worker's own clock. `count` of them at once, or each not before `after` seconds from now."""

    kind: ClassVar[str] = "grant"
    beat: float
    count: int = 0
    after: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """`how`: "drain" finishes what runs; "stop" stops it on the server; "abandon" leaves at once; "quit" ends the
    worker, which has nothing under way."""

    kind: ClassVar[str] = "stop"
    how: str
    why: dict[str, Any] = field(default_factory=dict)


Message: TypeAlias = Hello | Report | Figures | Log | Done | Part | Grant | Stop
_KINDS: Mapping[str, type[Message]] = {one.kind: one for one in (Hello, Report, Figures, Log, Done, Part, Grant, Stop)}
_NAMES = {one: tuple(each.name for each in fields(one)) for one in _KINDS.values()}
_TUPLES = {
    one: frozenset(each.name for each in fields(one) if str(each.type).startswith("tuple")) for one in _KINDS.values()
}
_ENCODER = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"))


def encode(message: Message) -> bytes:
    """One line, its end included."""
    body = {"kind": message.kind}
    for name in _NAMES[type(message)]:
        body[name] = getattr(message, name)
    return _ENCODER.encode(body).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Raises Garbled."""
    try:
        body = json.loads(line)
        kind = _KINDS[body.pop("kind")]
        for name in _TUPLES[kind]:
            if isinstance(body.get(name), list):
                body[name] = tuple(body[name])
        return kind(**body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Garbled(f"not a message: {line[:100]!r}") from error
