"""The endpoints of /v1 (run detail, log, stop, events, parameters, forms, files), and the links to files."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from . import answers, wire
from .apps import describe_info, describe_parameters
from .chat_lookups import conversations, feedback, messages, stop_chat, stop_completion
from .chat_posting import chat, completion
from .events import FORM_ACTIONS, FORM_FIELDS
from .exchange import Exchange, user_of
from .files import NO_USER, TOO_LARGE, WRONG_TYPE, multipart
from .gateway import gateway_answer
from .kinds import describe_basic_parameters
from .oddities import json_of, odd_fields
from .plan import take_upload
from .posting import WRONG_MODE, run_workflow
from .routes import FILE_PREVIEW, Routes, Table
from .runs import Form, Run
from .streams import send_run_events
from .wire import Answer, Refusal

FORBIDDEN = wire.refuse(403, "forbidden", "You don't have the permission to access the requested resource.")
UPLOAD_ANSWERS = {"upload_413": TOO_LARGE, "upload_415": WRONG_TYPE, "upload_500": wire.UNKNOWN_500}


async def run_detail(exchange: Exchange) -> Answer:
    """GET workflows/run/{id} (dify-wire 13)."""
    if exchange.app.mode not in ("workflow", "advanced-chat"):
        return wire.refuse(400, "not_workflow_app", WRONG_MODE)
    run_id = exchange.request.params["run_id"]
    if not wire.is_uuid(run_id):
        return wire.UNKNOWN_500
    run = exchange.site.registry.find(exchange.app, run_id)
    if run is None:
        return wire.refuse(404, "not_found", "Workflow run not found.")
    if run.oddity == "detail_500":
        return wire.UNKNOWN_500
    told = run.told_at(exchange.site.means.now(), _lag(exchange))
    detail = told.detail(outputs_as_text=exchange.meets("outputs_as_text"))
    return Answer(200, (json_of(run.oddity, detail) + "\n").encode())


def _lag(exchange: Exchange) -> float:
    fault = exchange.site.plan.server.get("detail_lags")
    return 0.0 if fault is None else fault.seconds or 0.0


async def logs(exchange: Exchange) -> Answer:
    """GET workflows/logs (dify-wire 14)."""
    site = exchange.site
    if exchange.meets("closed_log"):
        return FORBIDDEN
    query = answers.log_query(exchange.request.query)
    if exchange.meets("log_ignores_user"):
        query = replace(query, user=None)
    if (slow := site.plan.server.get("slow_log")) is not None:
        await asyncio.sleep(slow.seconds or 0.0)
    now, lag = site.means.now(), _lag(exchange)
    total, runs = site.registry.log(exchange.app, query)
    page = {
        "page": query.page,
        "limit": query.limit,
        "total": total,
        "has_more": total > query.page * query.limit,
        "data": [odd_fields(run.oddity, run.told_at(now, lag).log_row()) for run in runs],
    }
    return wire.answer_json(page)


async def stop(exchange: Exchange) -> Answer:
    """POST workflows/tasks/{task_id}/stop: always success (dify-wire 16h-16m)."""
    user_of(exchange.json_body())
    exchange.site.engine.stop(exchange.request.params["task_id"])
    return wire.answer_json({"result": "success"})


async def run_events(exchange: Exchange) -> Answer | None:
    """GET workflow/{run id}/events (dify-wire 24)."""
    if exchange.meets("no_events"):
        return wire.refuse(404, "not_found", wire.NOT_FOUND)
    params = exchange.request.query
    user = user_of(params)
    run_id = exchange.request.params["run_id"]
    if not wire.is_uuid(run_id):
        return wire.UNKNOWN_500
    run = exchange.site.registry.find(exchange.app, run_id)
    if run is not None and run.oddity == "detail_500":
        return wire.UNKNOWN_500
    owner = await exchange.site.users.find(exchange.app.key, user)
    if run is None or run.user != user or run.owner not in ("", owner):
        return wire.refuse(404, "not_found", "Workflow run not found")
    await send_run_events(
        exchange.connection,
        exchange.site.config,
        run,
        with_snapshot=params.get("include_state_snapshot", "").lower() == "true",
        continue_on_pause=params.get("continue_on_pause", "").lower() == "true",
    )
    return None


async def parameters(exchange: Exchange) -> Answer:
    """GET parameters (dify-wire 19)."""
    if not exchange.app.published:
        message = "App unavailable, please check your app configurations."
        return wire.refuse(400, "app_unavailable", message)
    basic = exchange.app.mode in ("chat", "agent-chat", "completion")
    return wire.answer_json((describe_basic_parameters if basic else describe_parameters)(exchange.app))


async def info(exchange: Exchange) -> Answer:
    """GET info (dify-wire 19)."""
    if exchange.meets("info_404"):
        return wire.refuse(404, "not_found", wire.NOT_FOUND)
    if exchange.meets("info_404_html"):
        return wire.NO_PAGE
    if exchange.meets("info_403"):
        return FORBIDDEN
    return wire.answer_json(describe_info(exchange.app))


async def meta(exchange: Exchange) -> Answer:
    """GET meta (dify-wire 19)."""
    return wire.answer_json({"tool_icons": {}})


def _find_form(exchange: Exchange) -> tuple[Run, Form]:
    token = exchange.request.params["form_token"]
    run = exchange.site.registry.by_form.get(token)
    if run is None or run.app is not exchange.app:
        path = exchange.request.path
        message = (
            f"Form not found. You have requested this URI [{path}] but did you mean "
            "/v1/form/human_input/<string:form_token> ?"
        )
        raise Refusal(wire.refuse(404, "not_found", message))
    form = run.live.form if run.live is not None else None
    if form is None or form.submitted:
        number = form.id if form is not None else wire.derived_id("form", token)
        message = f"This form has already been submitted by another user, form_id={number}"
        raise Refusal(wire.refuse(412, "human_input_form_submitted", message))
    return run, form


async def form_get(exchange: Exchange) -> Answer:
    """GET form/human_input/{token} (dify-wire 18h)."""
    run, form = _find_form(exchange)
    fields = {
        "form_content": form.content,
        "inputs": FORM_FIELDS,
        "resolved_default_values": {},
        "user_actions": FORM_ACTIONS,
        "expiration_time": form.expires,
    }
    return Answer(200, json_of(run.oddity, fields).encode())


async def form_submit(exchange: Exchange) -> Answer:
    """POST form/human_input/{token}: any user may (dify-wire 18k, 18x)."""
    body = exchange.json_body()
    user_of(body)
    run = _find_form(exchange)[0]
    action, given = body.get("action"), body.get("inputs")
    if not isinstance(given, dict):
        given = {}
    if action not in [known["id"] for known in FORM_ACTIONS]:
        return wire.refuse(400, "invalid_form_data", f"Invalid action: {action}")
    missing = [str(f["output_variable_name"]) for f in FORM_FIELDS if f["output_variable_name"] not in given]
    if missing:
        message = f"Missing required inputs: {', '.join(missing)}"
        return wire.refuse(400, "invalid_form_data", message)
    exchange.site.engine.submit(run, str(action), {name: str(value) for name, value in given.items()})
    return wire.answer_json({})


async def upload(exchange: Exchange) -> Answer | None:
    """POST files/upload (dify-wire 20), and what the plan has for that file."""
    site, request = exchange.site, exchange.request
    parts = multipart(request.headers.get("content-type", ""), request.body)
    fault = take_upload(site.plan, next((part.filename for part in parts if part.filename), ""))
    refused = UPLOAD_ANSWERS.get(fault.name) or gateway_answer(fault.name, fault.seconds)
    if refused is not None:
        return refused
    if fault.name == "upload_cut":
        await exchange.connection.close()
        return None
    user = next((p.content.decode(errors="replace") for p in parts if p.name == "user"), "") or NO_USER
    owner = await site.users.find(exchange.app.key, user)
    answer = site.files.upload(exchange.app.key, parts, request.base_url, owner=owner)
    if fault.name == "upload_cut_after":
        await exchange.connection.close()
        return None
    return answer


async def file_preview(exchange: Exchange) -> Answer:
    """GET /files/{id}/file-preview: by its signature, without a key."""
    site, request = exchange.site, exchange.request
    return site.files.preview(request.params["file_id"], request.query, site.config.files_access_timeout)


SERVICE_API: Table = {
    "v1/workflows/run": {"POST": run_workflow},
    "v1/workflows/run/{run_id}": {"GET": run_detail},
    "v1/workflows/logs": {"GET": logs},
    "v1/workflows/{workflow_id}/run": {"POST": run_workflow},
    "v1/workflows/tasks/{task_id}/stop": {"POST": stop},
    "v1/workflow/{run_id}/events": {"GET": run_events},
    "v1/parameters": {"GET": parameters},
    "v1/info": {"GET": info},
    "v1/meta": {"GET": meta},
    "v1/form/human_input/{form_token}": {"GET": form_get, "POST": form_submit},
    "v1/chat-messages": {"POST": chat},
    "v1/chat-messages/{task_id}/stop": {"POST": stop_chat},
    "v1/completion-messages": {"POST": completion},
    "v1/completion-messages/{task_id}/stop": {"POST": stop_completion},
    "v1/conversations": {"GET": conversations},
    "v1/messages": {"GET": messages},
    "v1/messages/{message_id}/feedbacks": {"POST": feedback},
    "v1/files/upload": {"POST": upload},
    FILE_PREVIEW: {"GET": file_preview},
}


ROUTES = Routes(SERVICE_API)
