"""The endpoints of one app beside its runs: log, form, files, stop. Shapes of requests and answers only.

Facts come from recorded exchanges of a Dify 1.14.2 server; the numbers in brackets name them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from dify_batch.dify import http
from dify_batch.dify.answers import Ended, LogPage, log_page, log_time, upload_outcome
from dify_batch.dify.appinfo import AppInfo
from dify_batch.dify.failures import own_limit
from dify_batch.dify.hearing import entry_heard
from dify_batch.errors import ConnectionFailed, DifyBatchError, UsageError
from dify_batch.outcomes import Outcome, Unreachable

UPLOAD_TIMEOUT = 300.0
"""Seconds for one upload; documents have up to 15 MB [20k]."""


class Endpoints(AppInfo):
    """Each method is one request. All of them raise:

    AuthError: 401; the key is unknown to the server.
    AppError: the app cannot be used as it is, or the address is not that of Dify's API.
    RateLimited: 429.
    ServerError: any other refusal (`server_4xx_other`), or 5xx (`server_5xx`).
    ConnectionFailed: no answer.
    """

    async def logs(
        self,
        *,
        user: str | None = None,
        after: datetime | None = None,
        before: datetime | None = None,
        page: int = 1,
        limit: int = 100,
        keyword: str | None = None,
        status: Ended | None = None,
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

    def _page(self, page: LogPage) -> LogPage:
        return LogPage(tuple(entry_heard(entry, self._key) for entry in page.entries), page.has_more, page.total)

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

    async def upload(self, path: str | Path, *, user: str, mime: str) -> str:
        """POST /files/upload; the file is read as it is sent. Gives the upload's id, good for runs of the same
        `user` only [20u]. The same file sent twice has two ids [20c].

        Raises:
            UsageError: the file cannot be read.
            ServerError: refused; http_status 413 for one that is too large [20k].
            AuthError, AppError, RateLimited, ConnectionFailed: as for the other endpoints.
        """
        url = http.URL(f"{self.base_url}/files/upload")
        try:
            file = await self._threads.run(lambda: Path(path).open("rb"))  # noqa: SIM115  closed below
        except (OSError, ValueError) as exc:
            if (limit := own_limit(exc)) is not None:
                raise ConnectionFailed(f"cannot open {path}: {limit}", own_limit=True) from exc
            why = getattr(exc, "strerror", None) or exc
            raise UsageError(f"cannot read {path}: {why}", hint="check the path") from exc
        with file:
            request = http.Request(
                "POST",
                url,
                headers=self._packed_headers,
                data={"user": user},
                files={"file": (Path(path).name, file, mime)},
                extensions={"timeout": self._timeout},
            )
            answer = await self._answer(request, UPLOAD_TIMEOUT)
        return str(answer.get("id") or "")

    async def send_file(self, path: str | Path, *, user: str, mime: str) -> str | Outcome:
        """As `upload`, but what it came to is told as an outcome of the row, by the same table as a run's.

        Unreachable: no connection, or a gateway's word; nothing is used up. Unreachable(charged): it failed (5xx).
        Rejected: `file_unreadable`, or `upload_refused` (413, 415, any other 4xx). Throttled, Fatal: as for a run.
        """
        try:
            uploaded = await self.upload(path, user=user, mime=mime)
        except DifyBatchError as error:
            return upload_outcome(error, str(path))
        return uploaded or Unreachable(f"the upload of {path} was answered without an id", charged=True)
