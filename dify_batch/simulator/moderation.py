"""A chatflow whose input moderation refuses: an answer, and no run (dify-wire 31t)."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from .channel import PING
from .chatflow import event
from .exchange import Exchange
from .ledger import Execution
from .model import no_usage
from .talks import Message
from .turns import MODERATED
from .wire import JSON_UTF8, Answer, stream_head


async def moderated(exchange: Exchange, message: Message, row: str, user: str, mode: str) -> Answer | None:
    """The blocking answer, or a stream without a single event of a workflow, which stays open after its message_end."""
    site, connection = exchange.site, exchange.connection
    now = site.means.monotonic()
    execution = Execution(row, message.id, user, mode, json.dumps(message.inputs), now)
    site.ledger.begin(execution)
    execution.end(now, "succeeded", json.dumps({"answer": MODERATED}))
    message.answer = MODERATED
    task_id = site.means.new_id()
    metadata: dict[str, Any] = {
        "annotation_reply": None,
        "retriever_resources": [],
        "usage": no_usage(0.0, first=0.006, total=0.0),
    }
    if mode == "blocking":
        body = {
            "event": "message",
            "task_id": task_id,
            "id": message.id,
            "message_id": message.id,
            "conversation_id": message.conversation_id,
            "mode": message.app.mode,
            "answer": MODERATED,
            "metadata": metadata,
            "created_at": message.created_at,
        }
        return Answer(200, json.dumps(body).encode(), JSON_UTF8)
    facts = {
        "conversation_id": message.conversation_id,
        "message_id": message.id,
        "created_at": message.created_at,
        "task_id": task_id,
        "id": message.id,
    }
    await connection.start(200, stream_head())
    await connection.write(PING.data)
    await connection.write(event("message", facts | {"answer": MODERATED, "from_variable_selector": None}).data)
    await connection.write(event("message_end", facts | {"metadata": metadata, "files": []}).data)
    try:
        async with asyncio.timeout(site.config.hold_after_error):
            await connection.until_closed()
    except TimeoutError:
        await connection.end()
    return None
