"""The apps of one workspace, of all, or of an external sign-in: pages hidden, what was fetched kept when one fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dify_batch.dify.account.client import PAGE, AccountClient, Page
from dify_batch.errors import DifyBatchError

AT_ONCE = 4
"""Workspaces that are asked at the same time: few enough for the limit of 60 requests a minute."""

Fetch = Callable[[int, int], Awaitable[Page]]


@dataclass(frozen=True, slots=True)
class Fetched:
    """Some rows, newest change first. `total`: how many there are in all, as far as it is known. `error`: why no more
    came, where that was no plan of ours."""

    rows: tuple[Mapping[str, Any], ...]
    total: int
    error: DifyBatchError | None = None


def newest_first(rows: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """By time of change; rows that tell none stand last, in the order in which they came."""
    return tuple(sorted(rows, key=lambda row: str(row.get("updated_at") or ""), reverse=True))


async def pages(fetch: Fetch, limit: int) -> AsyncIterator[Fetched]:
    """At most `limit` rows, a page at a time. A page that fails is told in the last `Fetched`, and ends it."""
    seen, number, size = 0, 1, min(PAGE, limit)
    while seen < limit:
        try:
            page = await fetch(number, size)
        except DifyBatchError as error:
            yield Fetched((), 0, error)
            return
        rows = page.rows[: limit - seen]
        seen += len(rows)
        number += 1
        yield Fetched(newest_first(rows), page.total)
        if not page.has_more or not page.rows:
            return


async def of_workspace(
    client: AccountClient, workspace_id: str, limit: int, filters: Mapping[str, str], tags: Sequence[str] = ()
) -> AsyncIterator[Fetched]:
    """The apps of one workspace. Of several `tags`, which an app must bear all of, the server filters the first."""
    given = dict(filters) | ({"tag": tags[0]} if tags else {})

    async def fetch(number: int, size: int) -> Page:
        page = await client.apps(workspace_id, number, size, **given)
        if len(tags) < 2:
            return page
        rows = tuple(row for row in page.rows if set(tags) <= _tags(row))
        return Page(rows, page.total - len(page.rows) + len(rows), page.has_more)

    async for fetched in pages(fetch, limit):
        yield fetched


async def of_external(client: AccountClient, limit: int, filters: Mapping[str, str]) -> AsyncIterator[Fetched]:
    """The apps that an external sign-in may run."""
    async for fetched in pages(lambda number, size: client.external_apps(number, size, **filters), limit):
        yield fetched


async def of_all(
    client: AccountClient,
    workspaces: Sequence[Mapping[str, Any]],
    limit: int,
    filters: Mapping[str, str],
    tags: Sequence[str] = (),
) -> Fetched:
    """The apps of all workspaces, four at a time, each row with the workspace it is in."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(workspace: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], int, DifyBatchError | None]:
        rows: list[Mapping[str, Any]] = []
        total, failed = 0, None
        async with gate:
            async for fetched in of_workspace(client, str(workspace["id"]), limit, filters, tags):
                space = {"workspace_id": workspace["id"], "workspace_name": workspace.get("name")}
                rows += [space | {k: v for k, v in row.items() if k not in space} for row in fetched.rows]
                total, failed = max(total, fetched.total), fetched.error
        return rows, total, failed

    found = await asyncio.gather(*(one(workspace) for workspace in workspaces))
    rows = newest_first([row for part, _, _ in found for row in part])[:limit]
    error = next((failed for _, _, failed in found if failed is not None), None)
    return Fetched(rows, sum(total for _, total, _ in found), error)


def _tags(row: Mapping[str, Any]) -> set[str]:
    return {str(tag.get("name")) for tag in row.get("tags") or () if isinstance(tag, dict)}
