"""A history: what happens in the world, as one small immutable value that can be printed, kept and shortened.

All times are seconds. Times of an invocation count from its beginning.
"""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from dify_batch.simulator import DEMO_KEYS

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What a POST of a row meets: a fault of the simulator by its name, and how long its run takes."""

    name: str = "normal"
    seconds: float | None = None
    latency: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of the table. `fates`: one for each of its POSTs; after them all is well."""

    id: str
    query: str = "q"
    fates: tuple[Fate, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The server's shape. `workers`: places of each of its worker `processes`, which reserve `prefetch` tasks more;
    `overtaking`: seconds by which a task may come later into the queue; `spread`: sigma of the run times around
    `latency`; `lag`: run detail says running for so long after the end; `user_creation`: a new user takes so long."""

    app: str = "app-demo"
    latency: float = 5.0
    spread: float = 0.0
    workers: int | None = None
    processes: int = 1
    prefetch: int = 0
    overtaking: float = 0.0
    connections: int | None = None
    max_active: int | None = None
    lag: float = 0.0
    keep_alive: float = 2.0
    user_creation: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Connection number `connection` (from 1) breaks after so many bytes of one direction: "up" to the server."""

    connection: int
    side: str = "down"
    after: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """`doubled`: numbers of pieces on the way to the client that arrive twice."""

    delay: tuple[float, float] = (0.001, 0.002)
    cuts: tuple[Cut, ...] = ()
    doubled: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """What befalls the server for a while: see `server.WEATHER`."""

    at: float
    what: str
    seconds: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """What a person, or the machine, does to an invocation: "kill" (9), "term", "int", "power", "second" (another
    process on the same output), "answer" (the forms of all paused runs). `kept`: of what was not synced, at a
    power cut."""

    at: float
    what: str
    kept: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskTrouble:
    """Operation number `at` of the invocation's disk fails, with "ENOSPC" or "EIO"; or there it is killed, or the
    power goes ("kill", "power")."""

    at: int
    what: str
    lasting: bool = False
    kept: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """What a person does to the files between two invocations: see `person.EDITS`. `row`: the number of a row."""

    what: str
    row: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """How wrong this machine's clock is, and when it jumps by how much."""

    skew: float = 0.0
    jumps: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """One call of the command, `pause` after the end of the one before. `flags`: names of settings and values."""

    pause: float = 1.0
    flags: tuple[tuple[str, Any], ...] = ()
    edits: tuple[Edit, ...] = ()
    deeds: tuple[Deed, ...] = ()
    weather: tuple[Weather, ...] = ()
    disk: DiskTrouble | None = None
    clock: Clock = Clock()


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """`seed`: of what the history leaves to chance: delays, jitter, names, run times."""

    seed: int
    rows: tuple[Row, ...]
    server: Server = Server()
    network: Network = Network()
    invocations: tuple[Invocation, ...] = (Invocation(),)
    note: str = ""

    def to_json(self) -> str:
        """Only what differs from the defaults, so that a short history is a short text."""
        return json.dumps(_plain(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> History:
        history: History = _read(cls, json.loads(text))
        return history


def fitting(app: str, flags: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """The flags that go with an app: one that talks is asked in one mode only."""
    talks = app.startswith("app-demo-")
    return tuple((name, value) for name, value in flags.items() if not (talks and name == "mode"))


def of_kind(history: History, kind: str) -> History:
    """The same history over an app of another kind. No conversation proves anything of the day before, so there is no
    such pause."""
    app = DEMO_KEYS[kind]
    # Nobody can fetch a completion again that a person has deleted: asked with --retry, it is paid once more.
    kept = ("results_lose",) if kind == "completion" else ()
    invocations = tuple(
        replace(
            one,
            flags=fitting(app, dict(one.flags)),
            pause=min(one.pause, 3600.0),
            edits=tuple(edit for edit in one.edits if edit.what not in kept),
        )
        for one in history.invocations
    )
    # What is put together of pieces cannot tell a piece that arrives twice; the network of this world may double them.
    network = replace(history.network, doubled=()) if kind == "agent" else history.network
    server = replace(history.server, app=app, user_creation=1.0)
    return replace(history, server=server, network=network, invocations=invocations)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        shown = {}
        for field in fields(value):
            item = getattr(value, field.name)
            if item != field.default:
                shown[field.name] = _plain(item)
        return shown
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _read(kind: Any, value: Any) -> Any:
    """A value of the type out of JSON's lists and objects."""
    if is_dataclass(kind) and isinstance(kind, type):
        hints = get_type_hints(kind)
        assert isinstance(value, Mapping)
        return kind(**{name: _read(hints[name], item) for name, item in value.items()})
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple:
        inner = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(_read(part, item) for part, item in zip(inner, value, strict=True))
    if origin is types.UnionType:
        if value is None:
            return None
        return _read(next(part for part in arguments if part is not types.NoneType), value)
    if kind is float and isinstance(value, int):
        return float(value)
    return value


def as_tree(history: History) -> dict[str, Any]:
    """The history as lists and objects, for the shrinker."""
    return asdict(history)
