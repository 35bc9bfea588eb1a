"""Which kind of app stands behind a key, and what goes with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dify_batch.dify.client import DifyClient
from dify_batch.dify.kinds.client import KindClient
from dify_batch.dify.kinds.kind import KINDS, QUERY, WORKFLOW, Kind, kind_of
from dify_batch.errors import AppError, ServerError, UsageError
from dify_batch.input.form import Form
from dify_batch.settings import Settings


def kind_told(settings: Settings, info: Mapping[str, Any]) -> Kind | None:
    """The kind by --app-kind, else by GET /info; None where neither tells it.

    Raises AppError: it is a kind that nobody knows here.
    """
    if settings.app_kind is not None:
        return KINDS[settings.app_kind]
    mode = info.get("mode")
    kind = kind_of(mode)
    if kind is None and mode is not None:
        raise AppError(
            f'the key is that of the app "{info.get("name")}", whose mode is {mode}; it is not known how such an app '
            "is asked",
            hint=f"name the kind that it behaves like: --app-kind {', '.join(KINDS)}",
            server={"code": "not_workflow_app", "message": f"mode is {mode}", "status": 200},
        )
    return kind


def require_fitting(settings: Settings, kind: Kind) -> None:
    """What does not go with a kind of app. Raises UsageError."""
    if kind.only is not None and settings.mode not in ("auto", kind.only):
        raise UsageError(
            f"--mode {settings.mode} does not go with a {kind.name} app: {kind.why}",
            hint=f"leave --mode out: {kind.only} is taken",
            code="usage_invalid_flag",
        )
    if settings.workflow_id is not None and not kind.flows:
        raise UsageError(
            f"DIFY_WORKFLOW_ID pins the version of a workflow, and the app is a {kind.name}", hint="leave it out"
        )
    if settings.query_column is not None and not kind.asks:
        raise UsageError(
            f"--query-column names the column of the message, and a {kind.name} app is asked by its inputs alone",
            hint="leave it out",
            code="usage_invalid_flag",
        )


def with_message(settings: Settings, kind: Kind, form: Form) -> Form:
    """The form, with the message of an app that is asked with one."""
    return form.with_message(settings.query_column or QUERY) if kind.asks else form


def client_for(settings: Settings, kind: Kind, client: DifyClient, form: Form | None = None) -> DifyClient:
    """A client that asks the app as its kind is, over the connections of `client`. `form`: the app's own."""
    if kind is WORKFLOW:
        return client
    column = settings.query_column or QUERY
    return KindClient.of(
        kind,
        client,
        workflow_id=settings.workflow_id,
        message=column,
        keep_message=form is not None and form.has(column),
    )


@dataclass(frozen=True, slots=True)
class AskedApp:
    """The app behind a key. `form`: with its message; `info`: what GET /info says."""

    kind: Kind
    form: Form
    info: Mapping[str, Any]
    client: DifyClient


async def ask_app(settings: Settings, client: DifyClient) -> AskedApp:
    """Asks once, for a command that a person waits for. Raises what the endpoints raise, and as `require_fitting`."""
    form = Form.from_parameters(await client.parameters())
    info = await _info(client)
    kind = kind_told(settings, info) or await KindClient.of(WORKFLOW, client).kind_by_answers() or WORKFLOW
    require_fitting(settings, kind)
    return AskedApp(kind, with_message(settings, kind, form), info, client_for(settings, kind, client, form))


async def client_of_app(settings: Settings, client: DifyClient) -> DifyClient:
    """A client that asks the app as its kind is, for a command that sends no row."""
    kind = kind_told(settings, await _info(client)) or await KindClient.of(WORKFLOW, client).kind_by_answers()
    return client_for(settings, kind or WORKFLOW, client)


async def _info(client: DifyClient) -> Mapping[str, Any]:
    """{} where a server does not tell it."""
    try:
        return await client.info()
    except ServerError as error:
        if error.code != "server_4xx_other":
            raise
        return {}
