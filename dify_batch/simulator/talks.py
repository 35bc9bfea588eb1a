"""Conversations and messages: what the database holds of the apps that talk (dify-wire 31c, 32c, 34c)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .apps import App
from .means import Means
from .runs import Form, Run

_NO_PARENT = "00000000-0000-0000-0000-000000000000"
_NAME_LENGTH = 75


@dataclass(slots=True)
class Thought:
    """One step of an agent."""

    id: str
    position: int
    created_at: int
    thought: str = ""
    tool: str = ""
    tool_labels: dict[str, Any] = field(default_factory=dict)
    tool_input: str = ""
    observation: str = ""

    def row(self, message_id: str) -> dict[str, Any]:
        """As GET messages gives it."""
        return {
            "id": self.id,
            "chain_id": None,
            "message_id": message_id,
            "position": self.position,
            "thought": self.thought,
            "tool": self.tool,
            "tool_labels": self.tool_labels,
            "tool_input": self.tool_input,
            "created_at": self.created_at,
            "observation": self.observation,
            "files": [],
        }


@dataclass(slots=True)
class Message:
    """One question and its answer. status: normal (running, done, stopped and lost alike), error, paused."""

    id: str
    conversation_id: str
    app: App
    inputs: dict[str, Any]
    query: str
    created_at: int
    answer: str = ""
    status: str = "normal"
    error: str | None = None
    thoughts: list[Thought] = field(default_factory=list)
    run: Run | None = None  # of a chatflow
    form: Form | None = None  # that its run waits for, or waited for

    def row(self, extra: list[dict[str, Any]]) -> dict[str, Any]:
        """As GET messages gives it. extra: what its run waits for, or was told by a person."""
        return {
            "id": self.id,
            "conversation_id": self.conversation_id,
            "parent_message_id": _NO_PARENT,
            "inputs": self.inputs,
            "query": self.query,
            "answer": self.answer,
            "feedback": None,
            "retriever_resources": [],
            "created_at": self.created_at,
            "agent_thoughts": [thought.row(self.id) for thought in self.thoughts],
            "message_files": [],
            "status": self.status,
            "error": self.error,
            "extra_contents": extra,
        }


@dataclass(slots=True)
class Conversation:
    """What one end user and an app said to each other."""

    id: str
    app: App
    owner: str
    name: str
    inputs: dict[str, Any]
    created_at: int
    messages: list[Message] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """As GET conversations gives it."""
        return {
            "id": self.id,
            "name": self.name,
            "inputs": self.inputs,
            "status": "normal",
            "introduction": "",
            "created_at": self.created_at,
            "updated_at": self.messages[-1].created_at if self.messages else self.created_at,
        }


class Talks:
    """All conversations, each user's in the order of their begin."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._by_id: dict[str, Conversation] = {}
        self._by_owner: dict[tuple[str, str], list[Conversation]] = {}
        self.messages: dict[str, Message] = {}
        self.named: int = 0  # model calls that gave a conversation its name, in no answer's tokens (dify-wire 31w)

    def find(self, app: App, owner: str, conversation_id: str) -> Conversation | None:
        """The conversation of that id, if it is this app's and this end user's."""
        found = self._by_id.get(conversation_id)
        return found if found is not None and found.app is app and found.owner == owner else None

    def of(self, app: App, owner: str) -> list[Conversation]:
        """Newest first."""
        return self._by_owner.get((app.key, owner), [])[::-1]

    def begin(
        self, app: App, owner: str, inputs: dict[str, Any], query: str, conversation_id: str | None, name_it: bool
    ) -> Message:
        """A message comes into being, in a conversation of its own unless one is given."""
        now = int(self._means.now())
        talk = self._by_id.get(conversation_id or "")
        if talk is None:
            talk = Conversation(self._means.new_id(), app, owner, query[:_NAME_LENGTH], inputs, now)
            self._by_id[talk.id] = talk
            self._by_owner.setdefault((app.key, owner), []).append(talk)
            self.named += name_it
        message = Message(self._means.new_id(), talk.id, app, inputs, query, now)
        talk.messages.append(message)
        self.messages[message.id] = message
        return message
