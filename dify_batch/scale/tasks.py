"""In which order the parts of a batch are given out, and what of each. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dify_batch.scale.survey import Survey
from dify_batch.settings import Settings


@dataclass(slots=True)
class Task:
    """A part that waits for a worker. `collect`: only what is under way is looked at first."""

    number: int
    collect: bool = False
    limit: int | None = None


def tasks(found: Survey, settings: Settings) -> Iterator[Task]:
    """What is left of earlier invocations goes first, the largest parts next, so that the tail is short. Where more
    parts have something open than there are workers, it is looked at before anything is sent: it takes places, and
    nobody would free them."""
    left = settings.limit
    needed = [part for part in found.parts if part.needed or settings.rerun_changed]
    opened = [part for part in needed if part.executing]
    if len(opened) > (settings.workers or 1):
        yield from (Task(part.shard.number, collect=True) for part in opened)
    for part in sorted(needed, key=lambda one: (not one.executing, -one.to_run)):
        limit = None
        if left is not None:
            limit = min(left, part.to_run)
            left -= limit
            if not limit and not part.open:
                continue
        yield Task(part.shard.number, limit=limit or None, collect=limit == 0)
