"""What an app that talks tells afterwards: conversations, messages, stop, feedback (dify-wire 32c, 32u, 32w, 33c)."""

from __future__ import annotations

from typing import Any

from . import wire
from .answers import bounded, validation_error
from .chat_posting import NO_CONVERSATION, NOT_CHAT, UNAVAILABLE
from .chatflow import extra_contents
from .exchange import Exchange, user_of
from .kinds import TALKING
from .wire import Answer, Refusal

PAGE, MOST = 20, 100
_DID_YOU_MEAN = (
    " You have requested this URI [/v1/messages] but did you mean /v1/messages or /v1/chat-messages or /api/messages ?"
)


def _page(rows: list[dict[str, Any]], limit: int, more: bool) -> Answer:
    return wire.answer_json({"limit": limit, "has_more": more, "data": rows})


async def _owner(exchange: Exchange) -> str | None:
    """The end user that the query names, made if there is none; None without a name."""
    user = exchange.request.query.get("user")
    return await exchange.site.users.find(exchange.app.key, user_of({"user": user})) if user else None


async def conversations(exchange: Exchange) -> Answer:
    """GET conversations: a user's own, newest first."""
    app, query = exchange.app, exchange.request.query
    if app.mode not in TALKING:
        return NOT_CHAT
    limit = bounded(query, "limit", PAGE, MOST, "ConversationListQuery")
    owner = await _owner(exchange)
    found = [] if owner is None else exchange.site.talks.of(app, owner)
    ids = [talk.id for talk in found]
    start = ids.index(query["last_id"]) + 1 if query.get("last_id") in ids else 0
    return _page([talk.row() for talk in found[start : start + limit]], limit, len(found) > start + limit)


async def messages(exchange: Exchange) -> Answer:
    """GET messages of a conversation: the newest page, in it the oldest first."""
    app, query = exchange.app, exchange.request.query
    if app.mode not in TALKING:
        return NOT_CHAT
    if "conversation_id" not in query:
        raise Refusal(validation_error("MessageListQuery", "conversation_id", "Field required", "missing", dict(query)))
    limit = bounded(query, "limit", PAGE, MOST, "MessageListQuery")
    owner = await _owner(exchange)
    talk = None if owner is None else exchange.site.talks.find(app, owner, query["conversation_id"])
    if talk is None:
        return wire.refuse(404, "not_found", NO_CONVERSATION + _DID_YOU_MEAN)
    ids = [message.id for message in talk.messages]
    end = ids.index(query["first_id"]) if query.get("first_id") in ids else len(ids)
    page = talk.messages[max(0, end - limit) : end]
    return _page([message.row(extra_contents(message)) for message in page], limit, end > limit)


async def stop_chat(exchange: Exchange) -> Answer:
    """POST chat-messages/{task_id}/stop: always success; a chat is stopped by its own user only (dify-wire 32u2)."""
    user = user_of(exchange.json_body())
    if exchange.app.mode not in TALKING:
        return NOT_CHAT
    return _stop(exchange, user)


async def stop_completion(exchange: Exchange) -> Answer:
    """POST completion-messages/{task_id}/stop."""
    user = user_of(exchange.json_body())
    if exchange.app.mode != "completion":
        return UNAVAILABLE
    return _stop(exchange, user)


def _stop(exchange: Exchange, user: str) -> Answer:
    task_id = exchange.request.params["task_id"]
    turn = exchange.site.turns.get(task_id)
    if turn is not None and turn.user == user:
        turn.stop.set()
    elif exchange.app.mode == "advanced-chat":
        exchange.site.engine.stop(task_id, user)
    return wire.answer_json({"result": "success"})


async def feedback(exchange: Exchange) -> Answer:
    """POST messages/{message_id}/feedbacks: the only sign that a completion exists (dify-wire 33c-6)."""
    user_of(exchange.json_body())
    message = exchange.site.talks.messages.get(exchange.request.params["message_id"])
    if message is None or message.app is not exchange.app:
        return wire.refuse(404, "not_found", "Message Not Exists.")
    return wire.answer_json({"result": "success"})
