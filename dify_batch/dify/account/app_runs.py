"""The runs of one app, as servers of shape C list them: what a lost request is looked up in, weakly.

The list has no inputs and everybody's runs; the inputs stand in each run's detail. Read in the server's sources, not
seen. Each request counts against the 60 that a token has a minute.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from dify_batch.dify.account.client import AccountClient, Page
from dify_batch.dify.answers import Detail, LogEntry, LogPage
from dify_batch.dify.results import ended
from dify_batch.errors import ConnectionFailed, DifyBatchError, RateLimited
from dify_batch.outcomes import RunRef, Unreachable
from dify_batch.seams import Clock

_PAGES = 10
"""Pages that one look reads at the most: a sixth of what a minute allows."""

_KEPT = 2.0
"""Seconds that a page is used again: one look asks for the same ones several times."""


class AppRuns:
    """`mode`: the kind of the app. `account`: the e-mail address whose runs are ours."""

    def __init__(self, client: AccountClient, app_id: str, mode: str, account: str, clock: Clock) -> None:
        self._client = client
        self._app_id = app_id
        self._mode = mode
        self._account = account
        self._clock = clock
        self._pages: dict[str | None, tuple[float, Page]] = {}

    async def listed(self) -> bool:
        """Whether the server has a list of this app's runs."""
        try:
            return self._mode in ("workflow", "advanced-chat") and await self._client.shape() == "C"
        except DifyBatchError:
            return False

    async def stored(self, ref: RunRef) -> Detail | None:
        """A run as the server has it; None where that is closed to this account, whose own events are not."""
        try:
            data = await self._client.run_detail(self._app_id, ref.run_id)
        except (ConnectionFailed, RateLimited) as error:
            return Detail(Unreachable(error.message))
        except DifyBatchError:
            return None
        inputs, begun = data.get("inputs"), data.get("created_at")
        return Detail(
            ended(data, ref, final=True),
            inputs if isinstance(inputs, str) else None if inputs is None else json.dumps(inputs),
            begun if isinstance(begun, int) else None,
            str(data.get("status") or ""),
        )

    async def within(self, after: datetime | None, before: datetime | None, *, mine: bool) -> LogPage:
        """The runs of a time, newest first; without `after` those of the newest page. `mine`: of this account only."""
        low = None if after is None else after.timestamp()
        high = None if before is None else before.timestamp()
        found: list[LogEntry] = []
        last: str | None = None
        for _ in range(_PAGES):
            page = await self._page(last)
            entries = [_entry(row) for row in page.rows]
            found += [e for e in entries if _within(e.created_at, low, high) and (not mine or e.user == self._account)]
            oldest = entries[-1].created_at if entries else None
            if not page.has_more or not entries or low is None or (oldest is not None and oldest < low):
                return LogPage(tuple(found), has_more=False)
            last = entries[-1].run_id
        return LogPage(tuple(found), has_more=True)

    async def _page(self, last: str | None) -> Page:
        now = self._clock.monotonic()
        kept = self._pages.get(last)
        if kept is None or now - kept[0] > _KEPT:
            kept = self._pages[last] = (now, await self._client.runs(self._app_id, last_id=last))
        return kept[1]


def _within(moment: int | None, low: float | None, high: float | None) -> bool:
    return moment is None or ((low is None or moment >= low) and (high is None or moment <= high))


def _entry(row: Mapping[str, Any]) -> LogEntry:
    account = row.get("created_by_account")
    begun, over = row.get("created_at"), row.get("finished_at")
    return LogEntry(
        run_id=str(row.get("id")),
        status=str(row.get("status") or ""),
        created_at=begun if isinstance(begun, int) else None,
        finished_at=over if isinstance(over, int) else None,
        user=str(account.get("email")) if isinstance(account, dict) else None,
        error=None,
    )
