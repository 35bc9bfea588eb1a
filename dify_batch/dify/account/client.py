"""AccountClient: one method an operation of the account surface. Facts: recorded exchanges, numbers in brackets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from dify_batch.dify import http
from dify_batch.dify.account.exchange import AccountExchange, Ask
from dify_batch.dify.account.shapes import Shape, has_tags, run_body
from dify_batch.errors import AppError, DifyBatchError

FIELDS = ("info", "parameters", "input_schema")
PAGE = 100
"""The most that a page may have: servers of A declare 200 and refuse more than 100 [27f8, 27f16]."""

CLIENT_ID = "difyctl"
"""The one client that servers know by default (OPENAPI_KNOWN_CLIENT_IDS); the device label is ours."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list. `total`: how many there are in all."""

    rows: tuple[dict[str, Any], ...]
    total: int
    has_more: bool


@dataclass(frozen=True, slots=True)
class RunAsk:
    """What a run is asked to do. `query` is the message of a chat, `app_id` with the app's `mode`."""

    app_id: str
    mode: str
    inputs: Mapping[str, Any]
    query: str | None = None
    conversation_id: str | None = None
    workflow_id: str | None = None
    workspace_id: str | None = None
    external: bool = False


class AccountClient:
    """All operations. They raise the errors of `refusals.py`, ConnectionFailed, and AppError where the server's shape
    does not have the operation."""

    def __init__(self, exchange: AccountExchange) -> None:
        self._exchange = exchange

    async def __aenter__(self) -> AccountClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exchange.aclose()

    @property
    def host(self) -> str:
        return self._exchange.host

    @property
    def clock_offset(self) -> float | None:
        """Seconds by which the server's clock is ahead of ours; None until an answer has told its time."""
        return self._exchange.clock_offset

    async def shape(self) -> Shape:
        return await self._exchange.shape()

    async def version(self) -> dict[str, Any]:
        """version, edition [27-version]."""
        return await self._exchange.call(Ask("version"))

    async def device_code(self, label: str) -> dict[str, Any]:
        """Begins a sign-in: device_code, user_code, verification_uri, expires_in, interval [27a]."""
        body = {"client_id": CLIENT_ID, "device_label": label}
        return await self._exchange.call(Ask("device_code", body=lambda _: body))

    async def device_token(self, device_code: str) -> dict[str, Any]:
        """The token of a sign-in, or {"error": …} of RFC 8628 [27b, 27c]."""
        body = {"device_code": device_code, "client_id": CLIENT_ID}
        try:
            return await self._exchange.call(Ask("device_token", body=lambda _: body))
        except DifyBatchError as error:
            server = error.details.get("server") or {}
            if server.get("code") in ("authorization_pending", "slow_down", "expired_token", "access_denied"):
                return {"error": server["code"]}
            raise

    async def health(self) -> None:
        """Asks for nothing but an answer; needs no token."""
        await self._exchange.call(Ask("health"))

    async def account(self) -> dict[str, Any]:
        """Who the token belongs to: subject_type, account, workspaces, default_workspace_id [27d]."""
        return await self._exchange.call(Ask("account"))

    async def revoke(self) -> None:
        """Ends this session on the server [27o]."""
        await self._exchange.call(Ask("revoke"))

    async def workspaces(self) -> list[dict[str, Any]]:
        """id, name, role of each [27e]."""
        answer = await self._exchange.call(Ask("workspaces"))
        rows = answer.get("workspaces") or answer.get("data") or []
        return [row for row in rows if isinstance(row, dict)]

    async def apps(self, workspace_id: str, page: int, limit: int, **filters: str) -> Page:
        """One page of a workspace's apps [27f]. `filters`: mode, name, tag."""
        if "tag" in filters and not has_tags(await self.shape()):
            raise AppError(
                "this server has no filter by tag",
                code="unsupported_endpoint",
                hint="leave --tag out; --name and --mode filter on every server",
            )
        query = {"workspace_id": workspace_id, "page": str(page), "limit": str(limit), **filters}
        return _page(await self._exchange.call(Ask("apps", query=query)))

    async def external_apps(self, page: int, limit: int, **filters: str) -> Page:
        """One page of the apps that an external sign-in may run. `filters`: mode, name."""
        query = {"page": str(page), "limit": str(limit), **filters}
        return _page(await self._exchange.call(Ask("external_apps", query=query)))

    async def describe(
        self, app_id: str, fields: tuple[str, ...] = FIELDS, *, external: bool = False
    ) -> dict[str, Any]:
        """info, parameters, input_schema of an app, null where not asked for [27g]."""
        operation = "external_describe" if external else "describe"
        query = {} if fields == FIELDS else {"fields": ",".join(fields)}
        return await self._exchange.call(Ask(operation, {"app_id": app_id}, query))

    async def run(self, ask: RunAsk, *, on_limit: bool = False) -> http.Response:
        """Sends a run, and gives its stream [27i]. With `on_limit` it is sent again after a 429.

        An external sign-in runs by its own path where users' documents have one, and by the apps' where that is 404.
        """

        def body(shape: Shape) -> dict[str, Any]:
            return run_body(
                shape,
                ask.mode,
                ask.inputs,
                query=ask.query,
                conversation_id=ask.conversation_id,
                workflow_id=ask.workflow_id,
                workspace_id=ask.workspace_id,
            )

        ids = {"app_id": ask.app_id}
        if ask.external and await self.shape() == "A":
            try:
                return await self._exchange.open(Ask("external_run", ids, body=body, mode=ask.mode, on_limit=on_limit))
            except DifyBatchError as error:
                if error.details.get("http_status") != 404:
                    raise
        return await self._exchange.open(Ask("run", ids, body=body, mode=ask.mode, on_limit=on_limit))

    async def events(self, app_id: str, run_id: str) -> http.Response:
        """The events of one's own run, its state so far first [27j, 27k]; 404 for another's."""
        query = {"include_state_snapshot": "true"}
        return await self._exchange.open(Ask("events", {"app_id": app_id, "task_id": run_id}, query))

    async def stop(self, app_id: str, task_id: str) -> None:
        """Asks for a run's end by its task id; any other id is answered with success as well [27k4]."""
        await self._exchange.call(Ask("stop", {"app_id": app_id, "task_id": task_id}, body=lambda _: {}))

    async def form(self, app_id: str, token: str) -> dict[str, Any]:
        """form_content, inputs, user_actions, expiration_time of a paused run's form [27l2]."""
        return await self._exchange.call(Ask("form", {"app_id": app_id, "form_token": token}))

    async def submit(self, app_id: str, token: str, action: str, inputs: Mapping[str, Any]) -> None:
        """Answers it; a second time is 412 [27l3, 27l5]."""
        body = {"inputs": dict(inputs), "action": action}
        await self._exchange.call(Ask("submit", {"app_id": app_id, "form_token": token}, body=lambda _: body))

    async def upload(self, app_id: str, name: str, file: BinaryIO, mime: str) -> str:
        """Uploads a file, and gives its id [27m]."""
        answer = await self._exchange.call(Ask("upload", {"app_id": app_id}, files={"file": (name, file.read(), mime)}))
        return str(answer.get("id") or "")

    async def runs(self, app_id: str, *, last_id: str | None = None, limit: int = PAGE) -> Page:
        """Everybody's runs of an app, newest first, without their inputs: servers of C only."""
        query = {"triggered_from": "app-run", "limit": str(limit)}
        if last_id is not None:
            query["last_id"] = last_id
        answer = await self._exchange.call(Ask("runs", {"app_id": app_id}, query))
        return _page({"total": 0, **answer})

    async def run_detail(self, app_id: str, run_id: str) -> dict[str, Any]:
        """A run with inputs and outputs: servers of C only."""
        return await self._exchange.call(Ask("run_detail", {"app_id": app_id, "run_id": run_id}))


def _page(answer: Mapping[str, Any]) -> Page:
    rows = answer.get("data")
    found = tuple(row for row in rows if isinstance(row, dict)) if isinstance(rows, list) else ()
    total = answer.get("total")
    return Page(found, total if isinstance(total, int) else len(found), bool(answer.get("has_more")))
