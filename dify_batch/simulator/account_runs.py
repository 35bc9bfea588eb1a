"""Runs by way of the account surface: every kind of app, always a stream, made by an account (dify-wire 27i to 27m)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from . import account_wire as wire
from .account_apps import Listed
from .account_exchange import AccountExchange
from .arrival import arriving, as_given, turned_away
from .channel import Channel, Event
from .files import multipart
from .inputs import InputError, check_inputs
from .posting import RUN_UNHEARD
from .runs import Run
from .streams import NO_CACHE, send_post_stream, send_run_events
from .task import Task
from .wire import Answer, Refusal, compact, is_uuid

_FIELDS = {  # of the body of shape C, by the route
    "workflow": {"inputs", "workflow_id", "workspace_id"},
    "completion": {"inputs", "query", "workspace_id"},
    "chat": {"inputs", "query", "conversation_id", "auto_generate_name", "workspace_id"},
    "advanced-chat": {"inputs", "query", "conversation_id", "auto_generate_name", "workflow_id", "workspace_id"},
}
_ROUTES = {
    "workflow": ("workflow",),
    "completion": ("completion",),
    "chat": ("chat", "agent-chat"),
    "advanced-chat": ("advanced-chat",),
}
_TALKS = ("chat", "agent-chat", "advanced-chat")


async def run(exchange: AccountExchange) -> Answer | None:
    """POST apps/{id}/run, apps/{id}:run, apps/{id}/{kind}:run."""
    entry = exchange.listed()
    body = exchange.json_body()
    shape, app = exchange.shape, entry.app
    kind = exchange.params.get("kind")
    if kind is not None:
        extra = sorted(body.keys() - _FIELDS[kind])
        if extra:
            return wire.invalid(shape, "extra_forbidden", extra[0], "Extra inputs are not permitted")
        if app.mode not in _ROUTES[kind]:
            return wire.refuse(shape, 422, "app_mode_mismatch", f"app mode is {app.mode}")
    inputs = body.get("inputs", {} if shape == "C" else None)
    if not isinstance(inputs, dict):
        text = "Field required" if inputs is None else "Input should be a valid dictionary"
        return wire.invalid(shape, "missing" if inputs is None else "dict_type", "inputs", text)
    query = body.get("query")
    if app.mode == "workflow" and query is not None:
        return wire.refuse(shape, 422, "invalid_param", "query_not_supported_for_workflow")
    if app.mode in _TALKS and not str(query or "").strip():
        return wire.invalid(shape, "missing", "query", "Field required")
    if not app.published:  # dify-wire 27i10
        return wire.internal(shape)
    workflow_id = body.get("workflow_id")
    if workflow_id is not None and not is_uuid(str(workflow_id)):
        return wire.refuse(shape, 400, "bad_request", f"Invalid workflow_id format: '{workflow_id}'. ")
    if workflow_id is not None and workflow_id != app.workflow_id:
        return wire.refuse(shape, 404, "not_found", f"Workflow not found with id: {workflow_id}")
    if app.mode in ("workflow", "advanced-chat"):
        return await _workflow(exchange, entry, inputs, body)
    return await _talk(exchange, entry, inputs, str(query or ""), body.get("conversation_id"))


async def _workflow(
    exchange: AccountExchange, entry: Listed, inputs: dict[str, Any], body: Mapping[str, Any]
) -> Answer | None:
    """A run in the workers, with the faults that the plan has for its row."""
    site, app, person = exchange.site, entry.app, exchange.token.person
    with arriving(site, exchange.connection, inputs) as arrival:
        row, fault, open_post = arrival.row, arrival.fault, arrival.open_post
        answered, early = await turned_away(exchange.connection, fault, app, site.config)
        if answered:
            return early
        inputs = as_given(app, inputs, fault)
        resolver = site.files.resolver(person.id, exchange.request.base_url)
        task = Task(app, person.id, row, "streaming", inputs, resolver, fault, account=person.creator())
        if app.mode == "advanced-chat":
            task.system = {"sys.query": str(body["query"]), "sys.dialogue_count": 1}
            talk = _talk_facts(exchange, body.get("conversation_id"), entry)
            task.channel = _ChatflowChannel(talk)
        else:
            task.channel = _SlimChannel()
        if fault.name in RUN_UNHEARD:
            task.channel = None
            site.engine.enqueue(task)
            unheard = RUN_UNHEARD[fault.name]
            if unheard is None:
                await exchange.connection.close()
            return unheard
        site.engine.enqueue(task)
        head = wire.stream_headers(exchange.shape)
        await send_post_stream(exchange.connection, site.config, task.channel, fault, open_post.answered, head)
        return None


def _talk_facts(exchange: AccountExchange, conversation_id: object, entry: Listed) -> dict[str, Any]:
    """The fields that every event of a conversation bears. Raises Refusal for a conversation that is not there."""
    means = exchange.site.means
    known = exchange.site.accounts.conversations
    if conversation_id:
        if known.get(str(conversation_id)) != (entry.app.id, exchange.token.person.id):
            raise exchange.refuse(404, "not_found", "Conversation Not Exists.")
    else:
        conversation_id = means.new_id()
        known[str(conversation_id)] = (entry.app.id, exchange.token.person.id)
    return {"conversation_id": conversation_id, "message_id": means.new_id(), "created_at": int(means.now())}


def _slim(name: str, data: dict[str, Any]) -> dict[str, Any]:
    """What this surface tells of a node: less than an app key is told (dify-wire 27i)."""
    if name == "node_started":
        return {key: value for key, value in data.items() if key not in ("inputs_truncated", "agent_strategy")}
    if name == "node_finished":
        kept = {key: value for key, value in data.items() if not key.endswith("_truncated")}
        return kept | {"inputs": None, "process_data": None, "outputs": None, "files": []}
    return data


class _SlimChannel(Channel):
    """Passes the events of a workflow on with slim nodes."""

    __slots__ = ()

    def put(self, event: Event) -> None:
        if event.name in ("node_started", "node_finished"):
            old = json.loads(event.data[len(b"data: ") :])
            event = _event(event.name, {**old, "data": _slim(event.name, old["data"])})
        super().put(event)


class _ChatflowChannel(Channel):
    """Turns the events of a workflow into those of a chatflow as they come (dify-wire 27i18)."""

    __slots__ = ("_facts",)

    def __init__(self, facts: dict[str, Any]) -> None:
        super().__init__()
        self._facts = facts

    def put(self, event: Event) -> None:
        if not event.data.startswith(b"data: "):
            super().put(event)
            return
        old = json.loads(event.data[len(b"data: ") :])
        if event.name == "error":
            super().put(_event("error", {**self._facts, "message": old["message"], "status": old["status"]}))
            return
        if event.name == "text_chunk":
            piece = {"id": self._facts["message_id"], "answer": old["data"]["text"]}
            selector = {"from_variable_selector": old["data"]["from_variable_selector"]}
            super().put(_event("message", {**self._facts, "task_id": old["task_id"], **piece, **selector}))
            return
        facts = {**self._facts, "task_id": old["task_id"]}
        if event.name == "workflow_finished" and old["data"]["status"] == "succeeded":
            closing = {"id": self._facts["message_id"], "metadata": {"retriever_resources": []}, "files": []}
            super().put(_event("message_end", {**facts, **closing}))
        data = _slim(event.name, old["data"])
        super().put(_event(event.name, {**facts, "workflow_run_id": old["workflow_run_id"], "data": data}))


def _event(name: str, fields: Mapping[str, Any]) -> Event:
    return Event(name, f"data: {compact({'event': name} | dict(fields))}\n\n".encode())


async def _talk(
    exchange: AccountExchange, entry: Listed, inputs: dict[str, Any], query: str, conversation_id: object
) -> Answer | None:
    """Chat, agent and completion: executed in the API process, pieces as they come, one `message_end`."""
    site, app, person = exchange.site, entry.app, exchange.token.person
    try:
        check_inputs(app.form, inputs, site.files.resolver(person.id, exchange.request.base_url))
    except InputError as e:
        return wire.refuse(exchange.shape, 400, "invalid_param", e.message)
    facts = _talk_facts(exchange, conversation_id, entry)
    if app.mode == "completion":
        del facts["conversation_id"]
    facts["task_id"] = task_id = site.means.new_id()
    stopped = site.accounts.talks[task_id] = asyncio.Event()
    closing = {"id": facts["message_id"], "metadata": {"retriever_resources": []}}
    connection, name = exchange.connection, "agent_message" if app.mode == "agent-chat" else "message"
    await connection.start(200, wire.stream_headers(exchange.shape))
    pieces = ["Echo: ", query or str(inputs.get("topic", ""))]
    tokens = 0
    for piece in pieces:
        sent = _event(name, {**facts, "id": facts["message_id"], "answer": piece})
        await connection.write(sent.data)
        tokens += 1 + len(piece) // 4
        if await _stopped(stopped, site.config.latency / len(pieces)):
            tokens = 0  # dify-wire 31.3
            break
    usage = {"prompt_tokens": 0, "completion_tokens": tokens, "total_tokens": tokens, "total_price": "0.0000020"}
    closing["metadata"] = {"retriever_resources": [], "usage": {**usage, "currency": "USD"}}
    await connection.write(_event("message_end", {**facts, **closing}).data)
    await connection.end()
    del site.accounts.talks[task_id]
    return None


async def _stopped(asked: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await asked.wait()
    except TimeoutError:
        return False
    return True


async def stop(exchange: AccountExchange) -> Answer:
    """POST …/tasks/{task_id}/stop: success to any id (dify-wire 27k2, 27k4)."""
    exchange.listed()
    task_id = exchange.params["task_id"]
    exchange.site.engine.stop(task_id)
    if (talk := exchange.site.accounts.talks.get(task_id)) is not None:
        talk.set()
    return exchange.reply({"result": "success"})


def _own_run(exchange: AccountExchange, run_id: str, code: str) -> Run:
    entry = exchange.listed()
    run = exchange.site.registry.find(entry.app, run_id)
    if run is None or run.user != exchange.token.person.id:
        raise exchange.refuse(404, code, "Workflow run not found")
    return run


async def events(exchange: AccountExchange) -> Answer | None:
    """GET …/tasks/{run id}/events (dify-wire 27j, 27k)."""
    run_id = exchange.params["task_id"]
    if not is_uuid(run_id):
        return wire.internal(exchange.shape)  # dify-wire 27j5
    if exchange.listed().app.mode not in ("workflow", "advanced-chat"):
        return wire.refuse(exchange.shape, 422, "app_mode_mismatch", "events are of workflows only")
    run = _own_run(exchange, run_id, "not_found")
    query = exchange.request.query
    await send_run_events(
        exchange.connection,
        exchange.site.config,
        run,
        with_snapshot=query.get("include_state_snapshot", "").lower() == "true",
        continue_on_pause=query.get("continue_on_pause", "").lower() == "true",
        head=wire.stream_headers(exchange.shape, NO_CACHE),
    )
    return None


async def runs(exchange: AccountExchange) -> Answer:
    """GET apps/{id}/runs of shape C (read in sources, not seen): everybody's, newest first, no inputs."""
    entry = exchange.listed()
    query = exchange.request.query
    try:
        limit = int(query.get("limit", "20"))
    except ValueError:
        limit = 0
    if not 1 <= limit <= 100:
        return wire.invalid("C", "less_than_equal", "limit", "Input should be less than or equal to 100")
    if query.get("triggered_from", "debugging") != "app-run":
        return exchange.reply({"limit": limit, "has_more": False, "data": [], "hints": []})
    found = list(reversed(exchange.site.registry.of_app(entry.app)))
    last = exchange.site.registry.by_id.get(query.get("last_id", ""))
    if last is not None:
        found = [run for run in found if run.created_at < last.created_at]
    rows = [_run_row(run) for run in found[:limit]]
    return exchange.reply({"limit": limit, "has_more": len(found) > limit, "data": rows, "hints": []})


def _run_row(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "version": "published",
        "status": run.status,
        "elapsed_time": run.elapsed,
        "total_tokens": run.tokens,
        "total_steps": run.steps,
        "created_by_account": run.account,
        "created_at": int(run.created_at),
        "finished_at": None if run.finished_at is None else int(run.finished_at),
        "exceptions_count": run.exceptions,
        "retry_index": 0,
    }


async def run_detail(exchange: AccountExchange) -> Answer:
    """GET apps/{id}/runs/{run id} of shape C (read in sources, not seen)."""
    entry = exchange.listed()
    run = exchange.site.registry.find(entry.app, exchange.params["run_id"])
    if run is None:
        raise exchange.refuse(404, "run_not_found", "Workflow run not found")
    more = {
        "inputs": json.loads(run.inputs) | run.system_inputs(timestamp=True),
        "outputs": json.loads(run.outputs),
        "error": run.error,
        "created_by_role": "end_user" if run.account is None else "account",
    }
    return exchange.reply({**_run_row(run), **more})


async def upload(exchange: AccountExchange) -> Answer:
    """POST …/files/upload, …/files (dify-wire 27m)."""
    entry, person = exchange.listed(), exchange.token.person
    request = exchange.request
    content_type = request.headers.get("content-type", "")
    try:
        parts = multipart(content_type, request.body)
        done = exchange.site.files.upload(entry.app.key, parts, request.base_url, owner=person.id, by=person.id)
    except Refusal as e:
        done = e.answer
    return wire.raw(exchange.shape, done.body, done.status)
