"""A POST that asks for a run, until the run is made: it is counted, meets its fault, and may be turned away."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from . import answers
from .apps import App
from .config import Config
from .exchange import Connection
from .faults import NORMAL, Fault
from .site import OpenPost, Site
from .wire import Answer


@dataclass(frozen=True, slots=True)
class Arrival:
    """`nth`: how many POSTs of the row there have been, this one included."""

    row: str
    nth: int
    fault: Fault
    open_post: OpenPost


@contextmanager
def arriving(site: Site, connection: Connection, inputs: Mapping[str, Any]) -> Iterator[Arrival]:
    """Around all that is done with the POST: it is open until then, or until its client has gone."""
    row = str(inputs.get("id", ""))
    nth = site.posts[row] = site.posts.get(row, 0) + 1
    site.post_total += 1
    open_post = OpenPost(site.flight)
    connection.when_lost(open_post.answered)
    try:
        yield Arrival(row, nth, site.plan.take(row, nth), open_post)
    finally:
        open_post.answered()


async def turned_away(connection: Connection, fault: Fault, app: App, config: Config) -> tuple[bool, Answer | None]:
    """Whether the fault ends it before a run is made, and the answer; None where the connection is cut."""
    if fault is NORMAL:
        return False, None
    if fault.name == "cut_before":
        await connection.close()
        return True, None
    refused = answers.refused(fault, app, config)
    return refused is not None, refused


def as_given(app: App, inputs: dict[str, Any], fault: Fault) -> dict[str, Any]:
    """The inputs, without one that is required if they are to be rejected."""
    if fault.name != "rejected":
        return inputs
    required = next((f.variable for f in app.form if f.required), None)
    return {name: value for name, value in inputs.items() if name != required}
