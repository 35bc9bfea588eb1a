"""The endpoints of one app beside its runs: log, form, files, stop. Shapes of requests and answers only.

Facts come from recorded exchanges of a Dify 1.14.2 server; the numbers in brackets name them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal
from urllib.parse import quote, urlencode

from dify_batch.dify.answers import LogPage, log_page, log_time
from dify_batch.dify.appinfo import AppInfo


class Endpoints(AppInfo, ABC):
    """Each method is one request. All of them raise:

    AuthError: 401; the key is unknown to the server.
    AppError: the app cannot be used as it is, or the address is not that of Dify's API.
    RateLimited: 429.
    ServerError: any other refusal (`server_4xx_other`), or 5xx (`server_5xx`).
    ConnectionFailed: no answer.
    """

    @abstractmethod
    async def _json(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The JSON object that a request is answered with; `path` is quoted and follows the base URL."""

    async def logs(
        self,
        *,
        user: str | None = None,
        after: datetime | None = None,
        before: datetime | None = None,
        page: int = 1,
        limit: int = 100,
        keyword: str | None = None,
        status: Literal["succeeded", "failed", "stopped"] | None = None,
        account: str | None = None,
    ) -> LogPage:
        """GET /workflows/logs: the runs of the app, newest first, running ones too [14, 14c].

        Args:
            user: only those posted with exactly this `user`.
            after, before: only runs made at or after, at or before this moment (aware; sent in whole seconds, rounded
                down) [14n, 14p].
            page: from 1; paging is by offset, so rows shift while runs are added.
            limit: 1 to 100, else the server answers 400 [14x].
            keyword: part of inputs, outputs or user, or a whole run id; in ASCII, the first 30 characters count
                [14f to 14k].
            account: only those made by the account of this e-mail address, by way of the account surface [27j7].
            status: only runs that ended so; the server knows no other words, and lists all without one [14l].
        """
        query = {"page": str(page), "limit": str(limit)}
        if account is not None:
            query["created_by_account"] = account
        if user is not None:
            query["created_by_end_user_session_id"] = user
        if before is not None:
            query["created_at__before"] = log_time(before)
        if after is not None:
            query["created_at__after"] = log_time(after)
        if keyword is not None:
            query["keyword"] = keyword
        if status is not None:
            query["status"] = status
        return self._page(log_page(await self._json("GET", f"/workflows/logs?{urlencode(query, quote_via=quote)}")))

    @abstractmethod
    def _page(self, page: LogPage) -> LogPage:
        """The page, its words masked."""

    async def parameters(self) -> dict[str, Any]:
        """GET /parameters: `user_input_form` and `system_parameters` [19]; AppError for an unpublished app [19c]."""
        return await self._json("GET", "/parameters")

    async def info(self) -> dict[str, Any]:
        """GET /info: name, description, tags, mode, author_name; also of an unpublished app [19]."""
        return await self._json("GET", "/info")

    async def stop(self, task_id: str, *, user: str) -> None:
        """POST /workflows/tasks/{task_id}/stop.

        The server says success to any id, so only run detail tells whether the run stopped [16h, 16m].
        """
        await self._json("POST", f"/workflows/tasks/{quote(task_id, safe='')}/stop", {"user": user})

    async def form(self, token: str) -> dict[str, Any]:
        """GET /form/human_input/{token}: form_content, inputs, user_actions, expiration_time [18h].

        ServerError has http_status 412 where the form has been submitted [18n], 404 for an unknown token [18h2].
        """
        return await self._json("GET", f"/form/human_input/{quote(token, safe='')}")

    async def submit_form(self, token: str, *, inputs: Mapping[str, Any], action: str, user: str) -> None:
        """POST /form/human_input/{token}: the run goes on under its own id [18k].

        ServerError has http_status 400 for an unknown action or a missing input [18i, 18j], 412 for a form that
        has been submitted before [18m].
        """
        body = {"inputs": inputs, "action": action, "user": user}
        await self._json("POST", f"/form/human_input/{quote(token, safe='')}", body)
