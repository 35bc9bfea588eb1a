"""What a model says: one message of a chat, an agent or a completion, while it is being made (dify-wire 32 to 34).

It is executed by a thread of the API process, so it dies with it. The answer is stored once, at its end; of a stream
whose client has gone it is never stored, though it was paid.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .channel import PING, Channel, Event
from .config import Config
from .ledger import Execution
from .means import Means
from .model import Speech, count_tokens, no_usage, usage
from .talks import Message, Thought
from .wire import compact

_TOOL = "current_time"
_TOOL_LABELS = {
    _TOOL: {"zh_Hans": "获取当前时间", "en_US": "Current Time", "pt_BR": "Current Time", "ja_JP": "Current Time"}
}
_TOOL_TEXT, _TOOL_INPUT, _TOOL_RESULT = "Let me look. ", '{"current_time": {}}', '{"current_time": "2026-11-25"}'
MODERATED, REPLACED = "input refused by moderation", "output replaced by moderation"
BROKEN = "Request to Plugin Daemon Service failed-500"
PROVIDER_LIMIT = "[openai] Rate Limit Error, 429 Too Many Requests: please try again in 20s."


@dataclass(slots=True)
class Turn:
    """One answer under way. heard: whether somebody will still get it; latency: seconds for all of it."""

    message: Message
    task_id: str
    user: str
    speech: Speech
    prompt: str
    latency: float
    fault: str
    execution: Execution
    heard: Callable[[], bool]
    channel: Channel | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class Said:
    """How it ended. error: the model's, with its code; usage None: there is no end, whoever waits for it waits on."""

    answer: str
    usage: dict[str, Any] | None
    error: tuple[str, str] | None = None


class Speaker:
    """Makes one turn's answer, piece by piece."""

    def __init__(self, means: Means, config: Config, turn: Turn) -> None:
        self._means = means
        self._config = config
        self._turn = turn
        self._began = means.monotonic()
        silent = turn.fault in ("empty_answer", "failed", "rate_limited")
        self._pieces = () if silent else turn.speech.pieces
        self._agent = turn.message.app.mode == "agent-chat"
        self.facts: dict[str, Any] = {"message_id": turn.message.id, "created_at": turn.message.created_at}
        if turn.message.app.mode != "completion":
            self.facts = {"conversation_id": turn.message.conversation_id} | self.facts

    async def speak(self) -> Said:
        """To its end."""
        turn, message = self._turn, self._turn.message
        if turn.fault in ("zombie", "zombie_blocking"):
            turn.execution.killed = True
            return Said("", None)
        if turn.fault == "moderated":
            await self._piece(MODERATED)
            return self._end(MODERATED, no_usage(self._means.since(self._began)))
        if self._agent and turn.speech.tool and not await self._use_tool():
            return self._cut(_TOOL_TEXT)
        said = await self._say()
        text = "".join(said)
        error = self._error()
        if error is not None:
            message.status, message.error = "error", error[1]
            turn.execution.end(self._means.monotonic(), "failed", "{}")
            self._put("error", {"code": error[0], "status": 400, "message": error[1]}, task=False)
            return Said("", {}, error)
        if turn.stop.is_set() or turn.fault == "cut_off" or len(said) < len(self._pieces):
            return self._cut(text)
        if not self._agent:
            await self._piece("")
        if turn.fault == "replaced":
            text = REPLACED
            self._put("message_replace", {"answer": text, "reason": ""})
        elif self._agent:
            await self._piece("")
            self._think(thought="".join(said), last=True)
            text = "".join(said)
        spent = usage(count_tokens(turn.prompt) + 2, max(1, count_tokens(text)), self._means.since(self._began))
        return self._end(text, spent)

    def _error(self) -> tuple[str, str] | None:
        fault, error = self._turn.fault, self._turn.speech.error
        if fault == "model_broke":
            return "invalid_param", BROKEN
        if fault == "rate_limited":
            return "completion_request_error", PROVIDER_LIMIT
        if fault == "failed" or error is not None:
            return "completion_request_error", error or "made-up server error"
        return None

    async def _say(self) -> list[str]:
        """The pieces, until somebody stops it or its time is over."""
        turn = self._turn
        pieces = self._pieces
        gap = turn.latency / max(1, len(pieces)) if turn.speech.gap is None else turn.speech.gap
        if self._agent:
            self._begin_thought()
        said: list[str] = []
        if not pieces:
            await self._wait(0.0 if turn.fault == "rate_limited" else turn.latency)
        for piece in pieces:
            if await self._wait(gap) or self._means.monotonic() - self._began > self._config.app_time_limit:
                break
            said.append(piece)
            await self._piece(piece)
        return said

    async def _wait(self, seconds: float) -> bool:
        """True if it was stopped; pings while nothing else is sent."""
        while True:
            step = min(seconds, self._config.ping_interval)
            try:
                async with asyncio.timeout(step):
                    await self._turn.stop.wait()
                return True
            except TimeoutError:
                seconds -= step
            if seconds <= 0:
                return False
            self._send(PING)

    async def _piece(self, text: str) -> None:
        if self._agent:
            self._put("agent_message", {"id": self._turn.message.id, "answer": text})
        else:
            more = {"id": self._turn.message.id, "answer": text, "from_variable_selector": None}
            self._put("message", more)

    async def _use_tool(self) -> bool:
        """The first thought: words, the tool, what it said. False if it was stopped."""
        self._begin_thought()
        await self._piece(_TOOL_TEXT)
        if await self._wait(self._turn.speech.gap or 0.0):
            return False
        await self._piece("")
        await self._piece("")
        self._think(thought=_TOOL_TEXT, tool=_TOOL, tool_labels=_TOOL_LABELS, tool_input=_TOOL_INPUT)
        self._think(observation=_TOOL_RESULT)
        return True

    def _begin_thought(self) -> None:
        thoughts = self._turn.message.thoughts
        thoughts.append(Thought(self._means.new_id(), len(thoughts) + 1, int(self._means.now())))
        self._think()

    def _think(self, last: bool = False, **changes: Any) -> None:
        """Fills the newest thought in, which is stored at once, and tells it again."""
        thought = self._turn.message.thoughts[-1]
        for name, value in changes.items():
            setattr(thought, name, value)
        self._put(
            "agent_thought",
            {
                "id": thought.id,
                "position": thought.position,
                "thought": thought.thought,
                "observation": thought.observation,
                "tool": thought.tool,
                "tool_labels": thought.tool_labels,
                "tool_input": thought.tool_input,
                "message_files": [],
            },
        )

    def _cut(self, text: str) -> Said:
        """Stopped, or past its time: what was said so far, no usage, and nothing else that shows it."""
        spent = usage(0, 0, self._means.since(self._began))
        if self._turn.channel is None:
            return self._end("", spent, status="stopped")
        prices = ("prompt_price", "completion_price", "total_price")
        return self._end(text, spent | dict.fromkeys(prices, "0E-7"), status="stopped")

    def _end(self, text: str, spent: dict[str, Any], status: str = "succeeded") -> Said:
        turn, message = self._turn, self._turn.message
        turn.execution.end(self._means.monotonic(), status, compact({"answer": text}))
        if turn.heard() and turn.fault != "db_down_at_end":
            parts = [t.thought for t in message.thoughts[:-1]] + [text] if self._agent else [text]
            message.answer = _stored("\n".join(parts), self._agent)
        told: dict[str, Any] = {"annotation_reply": None, "retriever_resources": [], "usage": spent}
        self._put("message_end", {"id": message.id, "metadata": told, "files": None})
        return Said(text, spent)

    def _put(self, name: str, fields: Mapping[str, Any], task: bool = True) -> None:
        facts = self.facts | ({"task_id": self._turn.task_id} if task else {})
        self._send(Event(name, f"data: {compact({'event': name, **facts, **fields})}\n\n".encode()))

    def _send(self, event: Event) -> None:
        if self._turn.channel is not None:
            self._turn.channel.put(event)


def _stored(text: str, agent: bool) -> str:
    """The answer as the database keeps it: without blanks at its ends, `{{name}}` as `{name}` (dify-wire 32af)."""
    return text.strip() if agent else re.sub(r"\{\{(\w+)\}\}", r"{\1}", text).strip()
