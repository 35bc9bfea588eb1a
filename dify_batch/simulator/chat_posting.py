"""POST /v1/chat-messages and /v1/completion-messages: what becomes of it, for each kind of app."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from . import answers, wire
from .answers import validation_error
from .arrival import arriving, turned_away
from .channel import Channel
from .chatflow import Telling
from .exchange import Exchange, user_of
from .faults import Fault
from .inputs import InputError, check_inputs
from .kinds import TALKING, prompt_of
from .ledger import Execution
from .model import speak
from .moderation import moderated
from .posting import BLOCKING_MEANING, RUN_UNHEARD, WRONG_MODE, block, stream, unheard
from .site import OpenPost
from .streams import odd_head, write_as
from .task import Task
from .trouble import endless, odd_answer
from .turns import Said, Speaker, Turn
from .wire import JSON_UTF8, Answer, Refusal, stream_head

NO_CONVERSATION = "Conversation Not Exists."
NOT_CHAT = wire.refuse(400, "not_chat_app", WRONG_MODE)
UNAVAILABLE = wire.refuse(400, "app_unavailable", "App unavailable, please check your app configurations.")
_DID_YOU_MEAN = (
    " You have requested this URI [/v1/chat-messages] but did you mean /v1/chat-messages or /api/chat-messages or "
    "/v1/chat-messages/<string:task_id>/stop ?"
)


async def chat(exchange: Exchange) -> Answer | None:
    """POST /v1/chat-messages."""
    body = exchange.json_body()
    user = user_of(body)
    if exchange.app.mode not in TALKING:
        return NOT_CHAT
    return await _post(exchange, body, user, "ChatRequestPayload")


async def completion(exchange: Exchange) -> Answer | None:
    """POST /v1/completion-messages."""
    body = exchange.json_body()
    user = user_of(body)
    if exchange.app.mode != "completion":
        return UNAVAILABLE
    return await _post(exchange, body, user, "CompletionRequestPayload")


def read_payload(body: Mapping[str, Any], model: str) -> tuple[dict[str, Any], str, str, str | None]:
    """(inputs, query, response mode, conversation). Raises Refusal with pydantic's words (dify-wire 31l, 33l)."""

    def invalid(name: str, text: str, kind: str, value: object) -> Refusal:
        return Refusal(validation_error(model, name, text, kind, value))

    needed = ("inputs", "query") if model == "ChatRequestPayload" else ("inputs",)
    for name in needed:
        if name not in body:
            raise invalid(name, "Field required", "missing", dict(body))
    inputs, query, mode = body["inputs"], body.get("query", ""), body.get("response_mode")
    if not isinstance(inputs, dict):
        raise invalid("inputs", "Input should be a valid dictionary", "dict_type", inputs)
    if not isinstance(query, str):
        raise invalid("query", "Input should be a valid string", "string_type", query)
    if mode not in (None, "blocking", "streaming"):
        raise invalid("response_mode", "Input should be 'blocking' or 'streaming'", "literal_error", mode)
    conversation = body.get("conversation_id") or None
    if conversation is not None and not wire.is_uuid(str(conversation)):
        text = "Value error, conversation_id must be a valid UUID"
        raise invalid("conversation_id", text, "value_error", conversation)
    return inputs, query, mode or "blocking", conversation


async def _post(exchange: Exchange, body: Mapping[str, Any], user: str, model: str) -> Answer | None:
    site, app = exchange.site, exchange.app
    inputs, query, mode, conversation = read_payload(body, model)
    if app.mode == "agent-chat" and mode == "blocking":
        return wire.refuse(400, "invalid_param", "Agent Chat App does not support blocking mode")
    with arriving(site, exchange.connection, inputs) as arrival:
        row, fault, open_post = arrival.row, arrival.fault, arrival.open_post
        if mode == "blocking" and fault.name in BLOCKING_MEANING:
            fault = Fault(BLOCKING_MEANING[fault.name], fault.seconds, fault.latency)
        answered, early = await turned_away(exchange.connection, fault, app, site.config)
        if answered:
            return early
        owner = await site.users.find(app.key, user)
        if app.mode == "advanced-chat":
            return await _chatflow(exchange, body, user, owner, fault, open_post, (inputs, query, mode, conversation))
        limit = site.config.max_active_requests
        if limit is not None and site.api.active.get(app.key, 0) + 1 > limit:
            return wire.too_many(app.id, limit)
        checked = _checked(exchange, owner, inputs, query, conversation, reject=fault.name == "rejected")
        name_it = body.get("auto_generate_name", True) is not False and app.mode != "completion"
        message = site.talks.begin(app, owner, checked, query, conversation, name_it)
        prompt = prompt_of(app, checked, query)
        execution = Execution(row, message.id, user, mode, json.dumps(inputs), site.means.monotonic())
        site.ledger.begin(execution)
        latency = site.config.latency if fault.latency is None else fault.latency
        if callable(site.config.latency_tail) and fault.latency is None:
            latency += site.config.latency_tail(row, arrival.nth)
        turn = Turn(
            *(message, site.means.new_id(), user, speak(prompt), prompt, latency, fault.name, execution),
            heard=lambda: mode == "blocking" or not exchange.connection.closed,
            channel=Channel() if mode == "streaming" else None,
        )
        return await (_talk(exchange, turn, fault, open_post) if mode == "streaming" else _ask(exchange, turn, fault))


def _checked(
    exchange: Exchange, owner: str, inputs: dict[str, Any], query: str, conversation: str | None, *, reject: bool
) -> dict[str, Any]:
    """The inputs as the app gets them. Raises Refusal."""
    site, app = exchange.site, exchange.app
    if not query and app.mode != "completion":
        raise Refusal(wire.refuse(400, "invalid_param", "query is required"))
    if conversation is not None and site.talks.find(app, owner, conversation) is None:
        raise Refusal(wire.refuse(404, "not_found", NO_CONVERSATION + _DID_YOU_MEAN))
    if reject:
        required = next((f.variable for f in app.form if f.required), "query")
        raise Refusal(wire.refuse(400, "invalid_param", f"{required} is required in input form"))
    try:
        return check_inputs(app.form, inputs, site.files.resolver(owner, exchange.request.base_url))
    except InputError as e:
        raise Refusal(wire.INTERNAL_500 if e.crash else wire.refuse(400, "invalid_param", e.message)) from None


async def _chatflow(
    exchange: Exchange,
    body: Mapping[str, Any],
    user: str,
    owner: str,
    fault: Fault,
    open_post: OpenPost,
    payload: tuple[dict[str, Any], str, str, str | None],
) -> Answer | None:
    """A workflow's run: in streaming mode it is checked in the worker, which says nothing of what it refuses."""
    site, app = exchange.site, exchange.app
    inputs, query, mode, conversation = payload
    limit = site.config.max_active_requests
    if limit is not None and site.api.active.get(app.key, 0) + (2 if mode == "streaming" else 1) > limit:
        return wire.too_many(app.id, limit)
    answers.check_workflow(app, body.get("workflow_id"), "." + _DID_YOU_MEAN)
    name_it = body.get("auto_generate_name", True) is not False
    if fault.name == "moderated":
        message = site.talks.begin(app, owner, inputs, query, conversation, name_it)
        return await moderated(exchange, message, str(inputs.get("id", "")), user, mode)
    resolver = site.files.resolver(owner, exchange.request.base_url)
    task = Task(app, user, str(inputs.get("id", "")), mode, inputs, resolver, fault, owner=owner)
    known = site.talks.find(app, owner, conversation) if conversation is not None else None
    dialogue = 1 if known is None else len(known.messages) + 1

    Telling(task, lambda plain: site.talks.begin(app, owner, plain, query, conversation, name_it), query, dialogue)
    try:
        _checked(exchange, owner, inputs, query, conversation, reject=fault.name == "rejected")
    except Refusal:
        if mode == "blocking":
            raise
        task.refused = True
    return await (stream(exchange, task, open_post) if mode == "streaming" else block(exchange, task))


async def _ask(exchange: Exchange, turn: Turn, fault: Fault) -> Answer | None:
    """A blocking answer: it is made and stored whether or not its client is there (dify-wire 32g)."""
    site, connection = exchange.site, exchange.connection
    speaking = site.api.spawn(_speak(exchange, turn))
    release = site.api.hold_app_slot(turn.message.app.key)
    speaking.add_done_callback(lambda _: release())
    if fault.name in RUN_UNHEARD:
        return await unheard(exchange, fault)
    if fault.name in ("silence", "silence_before_start"):
        await connection.until_closed()
        return None
    said = await asyncio.shield(speaking)
    if said.usage is None:
        return None
    if fault.name == "slow_answer":
        await asyncio.sleep(fault.seconds or 0.0)
    if said.error is not None:
        return wire.refuse(400, *said.error)
    message = turn.message
    talk = {} if message.app.mode == "completion" else {"conversation_id": message.conversation_id}
    told: dict[str, Any] = {"annotation_reply": None, "retriever_resources": [], "usage": said.usage}
    fields = {
        "event": "message",
        "task_id": turn.task_id,
        "id": message.id,
        "message_id": message.id,
        **talk,
        "mode": message.app.mode,
        "answer": said.answer,
        "metadata": told,
        "created_at": message.created_at,
    }
    return await odd_answer(connection, fault.name, Answer(200, json.dumps(fields).encode(), JSON_UTF8))


async def _speak(exchange: Exchange, turn: Turn) -> Said:
    site = exchange.site
    site.turns[turn.task_id] = turn
    site.engine.running += 1
    site.engine.max_running = max(site.engine.max_running, site.engine.running)
    try:
        return await Speaker(site.means, site.config, turn).speak()
    except asyncio.CancelledError:
        turn.execution.killed = turn.execution.ended is None
        raise
    finally:
        site.engine.running -= 1
        site.turns.pop(turn.task_id, None)


async def _talk(exchange: Exchange, turn: Turn, fault: Fault, open_post: OpenPost) -> Answer | None:
    """A stream: not even a status line until the first piece; its slot is free when its client leaves."""
    site, connection, channel = exchange.site, exchange.connection, turn.channel
    assert channel is not None
    site.api.spawn(_speak(exchange, turn))
    if fault.name in RUN_UNHEARD:
        return await unheard(exchange, fault)
    release = site.api.hold_app_slot(turn.message.app.key)
    try:
        connection.when_lost(channel.wake)
        if fault.name == "silence_before_start":
            await connection.until_closed()
            return None
        await _relay(exchange, channel, fault)
        open_post.answered()
        return None
    finally:
        channel.close()
        release()


async def _relay(exchange: Exchange, channel: Channel, fault: Fault) -> None:
    connection = exchange.connection
    started, pieces = False, 0
    while True:
        batch = await channel.take(exchange.site.config.ping_interval)
        if connection.closed:
            return
        if not batch:
            continue
        if not started:
            started = True
            await connection.start(200, odd_head(fault.name, stream_head()))
        for event in batch:
            if fault.name == "lost_finished" and event.name == "message_end":
                await connection.end()
                return
            if fault.name == "cut_mid_stream" and pieces == 1:
                await connection.write(event.data[: len(event.data) // 2])
                await connection.close()
                return
            if fault.name == "endless" and pieces == 1:
                await endless(connection, b'data: {"event":"message","answer":"')
                return
            await write_as(connection, event.data, fault)
            pieces += event.name != "ping"
            if event.name in ("message_end", "error"):
                await connection.end()
                return
            if pieces == 1 and fault.name in ("cut_after_start", "clean_end", "silence"):
                await {"cut_after_start": connection.close, "clean_end": connection.end}.get(
                    fault.name, connection.until_closed
                )()
                return
