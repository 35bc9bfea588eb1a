"""The paths of the account surface in its three shapes, and what answers them. A is as recorded (dify-wire 27); B and C
were read in sources, not seen."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping

from . import account_runs as runs
from . import account_wire as wire
from .account_apps import MODES, Listed, input_schema, parameters
from .account_exchange import AccountExchange
from .account_signin import device_code, device_lookup, device_token
from .events import FORM_ACTIONS, FORM_FIELDS
from .exchange import Connection, Request
from .routes import admit
from .runs import Form, Run
from .site import Site
from .wire import Answer, Refusal, derived_id

Handler = Callable[[AccountExchange], Awaitable[Answer | None]]

_MODES_TEXT = "'completion', 'workflow', 'chat', 'advanced-chat', 'agent-chat', 'agent', 'channel' or 'rag-pipeline'"
_FIELDS = ("info", "parameters", "input_schema")
PAGE = 20


async def version(exchange: AccountExchange) -> Answer:
    """GET _version."""
    first = {"A": "SELF_HOSTED"}.get(exchange.shape, "COMMUNITY")
    edition = "ENTERPRISE" if exchange.site.config.external_sso else first
    return exchange.reply({"version": wire.VERSIONS[exchange.shape], "edition": edition})


async def health(exchange: AccountExchange) -> Answer:
    """GET _health."""
    return exchange.reply({"ok": True})


async def catalog(exchange: AccountExchange) -> Answer:
    """GET _catalog of shape C."""
    return wire.raw("C", wire.catalog())


async def account(exchange: AccountExchange) -> Answer:
    """GET account (dify-wire 27d)."""
    person = exchange.token.person
    spaces = exchange.site.accounts.workspaces(person)
    return exchange.reply(
        {
            "subject_type": person.kind,
            "subject_email": person.email,
            "subject_issuer": person.issuer,
            "account": None if person.external else {"id": person.id, "email": person.email, "name": person.name},
            "workspaces": [space.brief() for space in spaces],
            "default_workspace_id": spaces[0].id if spaces else None,
        }
    )


async def sessions(exchange: AccountExchange) -> Answer:
    """GET account/sessions (dify-wire 27d5)."""
    exchange.account_only()
    found = exchange.site.accounts.sessions(exchange.token.person)
    rows = [token.describe() for token in found]
    return exchange.reply({"page": 1, "limit": 100, "total": len(rows), "has_more": False, "data": rows})


async def revoke_self(exchange: AccountExchange) -> Answer:
    """DELETE account/sessions/self (dify-wire 27o)."""
    if exchange.shape != "A":
        exchange.account_only()
    exchange.site.accounts.revoke(exchange.token)
    return exchange.reply({"status": "revoked"})


async def workspaces(exchange: AccountExchange) -> Answer:
    """GET workspaces (dify-wire 27e); pages since C."""
    exchange.account_only()
    spaces = exchange.site.accounts.workspaces(exchange.token.person)
    rows = [space.describe(current=number == 0) for number, space in enumerate(spaces)]
    if exchange.shape == "C":
        page = {"page": 1, "limit": 100, "total": len(rows), "has_more": False}
        return exchange.reply({**page, "data": rows, "hints": []})
    return exchange.reply({"workspaces": rows})


async def apps(exchange: AccountExchange) -> Answer:
    """GET apps (dify-wire 27f)."""
    exchange.account_only()
    wanted = exchange.request.query.get("workspace_id", "")
    if wanted not in {space.id for space in exchange.site.accounts.workspaces(exchange.token.person)}:
        raise exchange.refuse(404, "not_found", "workspace not found")
    return _page(exchange, exchange.site.accounts.visible(exchange.token.person, wanted))


async def external_apps(exchange: AccountExchange) -> Answer:
    """GET permitted-external-apps: an enterprise edition only (dify-wire 27n)."""
    _external_only(exchange)
    unknown = sorted(exchange.request.query.keys() - {"page", "limit", "mode", "name"})
    if unknown:
        return wire.invalid(exchange.shape, "extra_forbidden", unknown[0], "Extra inputs are not permitted")
    return _page(exchange, exchange.site.accounts.visible(exchange.token.person, None))


def _external_only(exchange: AccountExchange) -> None:
    if not exchange.site.config.external_sso:
        raise exchange.refuse(404, "not_found", wire.NO_PATH)
    if not exchange.token.person.external:
        raise exchange.refuse(403, "wrong_surface", "account tokens use /apps")


def _page(exchange: AccountExchange, entries: list[Listed]) -> Answer:
    query, shape = exchange.request.query, exchange.shape
    try:
        page, limit = int(query.get("page", "1")), int(query.get("limit", str(PAGE)))
    except ValueError:
        return wire.invalid(shape, "int_parsing", "limit", "Input should be a valid integer")
    most = 100 if shape == "C" else 200
    if limit < 1:
        return wire.invalid(shape, "greater_than_equal", "limit", "Input should be greater than or equal to 1")
    if limit > most:
        return wire.invalid(shape, "less_than_equal", "limit", f"Input should be less than or equal to {most}")
    if limit > 100:  # A declares 200 and refuses more than 100 (dify-wire 27f16)
        text = (
            "1 validation error for AppListParams\nlimit\n  Input should be less than or equal to 100 "
            f"[type=less_than_equal, input_value={limit}, input_type=int]\n"
            "    For further information visit https://errors.pydantic.dev/2.12/v/less_than_equal"
        )
        return wire.refuse(shape, 400, "bad_request", text)
    mode, name, tag = query.get("mode"), query.get("name"), query.get("tag")
    if mode is not None and mode not in (*MODES, "agent", "channel", "rag-pipeline"):
        return wire.invalid(shape, "enum", "mode", f"Input should be {_MODES_TEXT}")
    found = [
        entry
        for entry in entries
        if (mode is None or entry.app.mode == mode)
        and (name is None or name.lower() in entry.app.name.lower())
        and (tag is None or shape != "A" or tag in entry.tags)
    ]
    start = (page - 1) * limit
    fields = {"page": page, "limit": limit, "total": len(found), "has_more": len(found) > page * limit}
    hints: dict[str, object] = {"hints": []} if shape == "C" else {}
    return exchange.reply({**fields, "data": [entry.row() for entry in found[start : start + limit]], **hints})


async def describe(exchange: AccountExchange) -> Answer:
    """GET apps/{id}/describe, apps/{id} (dify-wire 27g)."""
    query = exchange.request.query
    unknown = sorted(query.keys() - {"fields"})
    if unknown:
        return wire.invalid(exchange.shape, "extra_forbidden", unknown[0], "Extra inputs are not permitted")
    fields = query.get("fields", ",".join(_FIELDS)).split(",")
    strange = [field for field in fields if field not in _FIELDS]
    if strange:
        text = f"Value error, unknown field(s): {strange}"
        return wire.invalid(exchange.shape, "value_error", "fields", text)
    entry = exchange.listed()
    return exchange.reply(
        {
            "info": entry.info() if "info" in fields else None,
            "parameters": parameters(entry.app) if "parameters" in fields else None,
            "input_schema": input_schema(entry.app) if "input_schema" in fields else None,
        }
    )


async def describe_external(exchange: AccountExchange) -> Answer:
    """GET permitted-external-apps/{id}, in A with /describe."""
    _external_only(exchange)
    return await describe(exchange)


async def run_external(exchange: AccountExchange) -> Answer | None:
    """POST permitted-external-apps/{id}/run: as users' documents have it; found in no source."""
    if exchange.site.config.external_sso < 2:
        return wire.no_path(exchange.shape)
    _external_only(exchange)
    return await runs.run(exchange)


def _form(exchange: AccountExchange) -> tuple[Run, Form]:
    entry = exchange.listed()
    token = exchange.params["form_token"]
    run = exchange.site.registry.by_form.get(token)
    if run is None or run.app is not entry.app:
        raise exchange.refuse(404, "not_found" if exchange.shape == "A" else "form_not_found", "Form not found.")
    form = run.live.form if run.live is not None else None
    if form is None or form.submitted:
        number = form.id if form is not None else derived_id("form", token)
        message = f"This form has already been submitted by another user, form_id={number}"
        raise exchange.refuse(412, "human_input_form_submitted", message)
    return run, form


async def form(exchange: AccountExchange) -> Answer:
    """GET …/form/human_input/{token}, …/human-input-forms/{token} (dify-wire 27l2)."""
    found = _form(exchange)[1]
    fields = {
        "form_content": found.content,
        "inputs": FORM_FIELDS,
        "resolved_default_values": {},
        "user_actions": FORM_ACTIONS,
        "expiration_time": found.expires,
    }
    return wire.raw(exchange.shape, json.dumps(fields).encode())


async def submit(exchange: AccountExchange) -> Answer:
    """POST …/form/human_input/{token}, …/human-input-forms/{token}:submit (dify-wire 27l3, 27l5)."""
    run = _form(exchange)[0]
    body = exchange.json_body()
    action, given = body.get("action"), body.get("inputs")
    given = given if isinstance(given, dict) else {}
    if action not in [known["id"] for known in FORM_ACTIONS]:
        return wire.refuse(exchange.shape, 400, "invalid_form_data", f"Invalid action: {action}")
    missing = [str(f["output_variable_name"]) for f in FORM_FIELDS if f["output_variable_name"] not in given]
    if missing:
        message = f"Missing required inputs: {', '.join(missing)}"
        return wire.refuse(exchange.shape, 400, "invalid_form_data", message)
    exchange.site.engine.submit(run, str(action), {name: str(value) for name, value in given.items()})
    return exchange.reply({})


Paths = Mapping[tuple[str, str], Handler]
_OPEN: Paths = {
    ("GET", "/_version"): version,
    ("GET", "/_health"): health,
    ("POST", "/oauth/device/code"): device_code,
    ("POST", "/oauth/device/token"): device_token,
    ("GET", "/oauth/device/lookup"): device_lookup,
}
_ALL: Paths = {
    ("GET", "/account"): account,
    ("GET", "/account/sessions"): sessions,
    ("DELETE", "/account/sessions/self"): revoke_self,
    ("GET", "/workspaces"): workspaces,
    ("GET", "/apps"): apps,
    ("GET", "/permitted-external-apps"): external_apps,
    ("GET", "/apps/{app_id}/tasks/{task_id}/events"): runs.events,
}
_A: Paths = {
    ("GET", "/apps/{app_id}/describe"): describe,
    ("POST", "/apps/{app_id}/run"): runs.run,
    ("POST", "/apps/{app_id}/tasks/{task_id}/stop"): runs.stop,
    ("POST", "/apps/{app_id}/files/upload"): runs.upload,
    ("GET", "/apps/{app_id}/form/human_input/{form_token}"): form,
    ("POST", "/apps/{app_id}/form/human_input/{form_token}"): submit,
    ("GET", "/permitted-external-apps/{app_id}/describe"): describe_external,
    ("POST", "/permitted-external-apps/{app_id}/run"): run_external,
}
_NEWER: Paths = {
    ("GET", "/apps/{app_id}"): describe,
    ("POST", "/apps/{app_id}/tasks/{task_id}:stop"): runs.stop,
    ("POST", "/apps/{app_id}/files"): runs.upload,
    ("GET", "/apps/{app_id}/human-input-forms/{form_token}"): form,
    ("POST", "/apps/{app_id}/human-input-forms/{form_token}:submit"): submit,
    ("GET", "/permitted-external-apps/{app_id}"): describe_external,
}
_B: Paths = {("POST", "/apps/{app_id}:run"): runs.run}
_C: Paths = {
    ("POST", "/apps/{app_id}/{kind}:run"): runs.run,
    ("GET", "/apps/{app_id}/runs"): runs.runs,
    ("GET", "/apps/{app_id}/runs/{run_id}"): runs.run_detail,
}
_SHAPES: Mapping[str, Paths] = {
    "A": {**_ALL, **_A},
    "B": {**_ALL, **_NEWER, **_B},
    "C": {**_ALL, **_NEWER, **_C},
}
_KINDS = "workflow|advanced-chat|chat|completion"


def _compiled(paths: Paths) -> list[tuple[str, re.Pattern[str], str, Handler]]:
    found = []
    for (method, path), handler in paths.items():
        pattern = path.replace("{kind}", f"(?P<kind>{_KINDS})")
        pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/:]+)", pattern)
        found.append((method, re.compile(pattern), path, handler))
    return found


_OPEN_ROUTES = _compiled({**_OPEN})
_CATALOG_ROUTES = _compiled({("GET", "/_catalog"): catalog})
_ROUTES = {shape: _compiled(paths) for shape, paths in _SHAPES.items()}


async def answer(site: Site, request: Request, connection: Connection) -> Answer | None:
    """The answer to a request below /openapi/v1; None if it has been answered, or the connection cut, meanwhile."""
    shape = site.config.api_shape
    path = request.path.removeprefix(wire.PREFIX)
    free = _OPEN_ROUTES + (_CATALOG_ROUTES if shape == "C" else [])
    wrong_method = False
    for guarded, routes in ((False, free), (True, _ROUTES[shape])):
        for method, pattern, name, handler in routes:
            match = pattern.fullmatch(path)
            if match is None:
                continue
            if method != request.method:
                wrong_method = True
                continue
            count = f"{method} openapi{name}"
            site.requests[count] = site.requests.get(count, 0) + 1
            exchange = AccountExchange(site, request, connection, match.groupdict())
            return await admit(site, request, connection, lambda e=exchange, h=handler, g=guarded: _handle(e, h, g))  # type: ignore[misc]
    if wrong_method:
        return wire.unrouted(shape, 405, "method_not_allowed", "The method is not allowed for the requested URL.")
    return wire.no_path(shape)


async def _handle(exchange: AccountExchange, handler: Handler, guarded: bool) -> Answer | None:
    try:
        if guarded:
            exchange.authenticate()
        return await handler(exchange)
    except Refusal as e:
        return e.answer
