"""Readers of what an app that talks answers: the stream of a chatflow, that of an agent, an answer in one piece. Pure.

Facts come from recorded exchanges of a Dify 1.14.2 server; the numbers in brackets name them. Events and fields that
are not known change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from dify_batch.dify.kinds.kind import Kind
from dify_batch.dify.kinds.words import failed, kind_refusal
from dify_batch.dify.protocol import Events
from dify_batch.dify.results import number, text, whole
from dify_batch.dify.word import event_refusal, word_of
from dify_batch.outcomes import (
    CUT_OFF,
    Failed,
    Lost,
    Outcome,
    Paused,
    Rejected,
    Running,
    RunRef,
    RunResult,
    Succeeded,
    Throttled,
)
from dify_batch.strictjson import json_object

_NOT_WHOLE = (
    "the answer tells no use of the model, so it is not whole: it was stopped, refused, or past the server's time limit"
)
_NO_RUN = "no workflow ran: the app's moderation answered in its place"


@dataclass(frozen=True, slots=True)
class Names:
    """What a message is called. `message`, `conversation`: "" where the app has none."""

    message: str = ""
    conversation: str = ""
    task: str = ""

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Names:
        """Out of an event or an answer."""
        message = told.get("message_id") or told.get("id")
        return cls(text(message), text(told.get("conversation_id")), text(told.get("task_id")))

    @property
    def ref(self) -> RunRef | None:
        """The run of an app without a workflow: its conversation, which a look-up finds; else the message."""
        name = self.conversation or self.message
        return RunRef(name, self.task or None) if name else None

    def outputs(self, answer: str) -> dict[str, Any]:
        named = {"conversation_id": self.conversation, "message_id": self.message}
        return {"answer": answer, **{name: value for name, value in named.items() if value}}


def spoken(names: Names, answer: str, usage: Mapping[str, Any]) -> Outcome:
    """What a whole answer of a model came to. One that used nothing is cut off, though it looks whole [32ab, 32u]."""
    ref = names.ref
    if ref is None:
        return Lost("the answer names no message", server_error=False)
    tokens, price, currency = (usage.get(name) for name in ("total_tokens", "total_price", "currency"))
    result = RunResult(
        ref,
        "succeeded",
        names.outputs(answer),
        elapsed_time=number(usage.get("latency")),
        total_tokens=whole(tokens),
        total_price=None if price is None else text(price),
        currency=text(currency) or None,
    )
    if tokens == 0:
        return Failed(replace(result, status=CUT_OFF, error=_NOT_WHOLE))
    return Succeeded(result)


def _answer(told: Mapping[str, Any]) -> str:
    said = told.get("answer")
    return said if isinstance(said, str) else ""


def usage_of(told: Mapping[str, Any]) -> Mapping[str, Any]:
    """`metadata.usage` of message_end, or of an answer in one piece."""
    metadata = told.get("metadata")
    usage = metadata.get("usage") if isinstance(metadata, dict) else None
    return usage if isinstance(usage, dict) else {}


@dataclass(slots=True)
class Talking:
    """Reads what an app without a workflow answers: chat, agent, completion.

    The pieces of an answer are `message` events, an agent's `agent_message`; an agent of newer versions closes with one
    `message` that holds all of it again, and is not appended. `message_replace` replaces all text so far [32t2].
    """

    kind: Kind
    ref: RunRef | None = None
    accepted: bool = False
    every: ClassVar[bool] = True
    _names: Names = field(default_factory=Names)
    _pieces: list[str] = field(default_factory=list)
    _by_agent: bool = False

    def feed(self, event: Mapping[str, Any]) -> Outcome | None:
        name = event.get("event")
        told = Names.of({key: event.get(key) for key in ("message_id", "conversation_id", "task_id")})
        if self.ref is None and told.ref is not None:
            self._names, self.ref = told, told.ref
        match name:
            case "agent_message":
                self._by_agent = True
                self._pieces.append(_answer(event))
            case "message" if not self._by_agent:
                self._pieces.append(_answer(event))
            case "message_replace":
                self._pieces = [_answer(event)]
            case "message_end":
                return spoken(self._names, "".join(self._pieces), usage_of(event))
            case "error":
                message = text(event.get("message")) or "an error event without a message"
                # Inputs are checked before the stream begins, so this is the model's: executed, and failed [32s].
                return event_refusal(message) if self.ref is None else failed(self.ref, message)
            case _:
                pass
        return None

    def end(self, reason: str) -> Running | Lost:
        if self.ref is not None:
            return Running(self.ref, reason)
        return Lost(reason, accepted=self.accepted)

    def whole(
        self, http_status: int, headers: Mapping[str, str], body: bytes, *, retry_after: float | None, first: bool
    ) -> Outcome:
        parsed = json_object(body) if 200 <= http_status < 300 else None
        if parsed is None or "answer" not in parsed:
            word = word_of(http_status, headers, body)
            return kind_refusal(self.kind, word, retry_after=retry_after, first=first)
        return spoken(Names.of(parsed), _answer(parsed), usage_of(parsed))


@dataclass(slots=True)
class Flowing:
    """Reads the stream of a chatflow: that of its workflow's run, which is told as a message.

    Input that moderation refuses is answered without a run, and its stream stays open: message_end is its end [31t1].
    """

    kind: Kind
    events: Events = field(default_factory=Events)
    every: ClassVar[bool] = False
    _names: Names = field(default_factory=Names)
    _pieces: list[str] = field(default_factory=list)

    @property
    def ref(self) -> RunRef | None:
        return self.events.ref

    @ref.setter
    def ref(self, ref: RunRef | None) -> None:
        self.events.ref = ref

    @property
    def accepted(self) -> bool:
        return self.events.accepted

    @accepted.setter
    def accepted(self, accepted: bool) -> None:
        self.events.accepted = accepted

    def feed(self, event: Mapping[str, Any]) -> Outcome | None:
        if not self._names.conversation and event.get("conversation_id"):
            self._names = Names.of({key: event.get(key) for key in ("message_id", "conversation_id", "task_id")})
        outcome = self.events.feed(event)
        ref = self.events.ref
        if ref is None:
            return self._without_a_run(event, outcome)
        if ref.conversation_id is None and self._names.conversation:
            self.events.ref = replace(ref, conversation_id=self._names.conversation)
        return self._named(outcome)

    def _without_a_run(self, event: Mapping[str, Any], outcome: Outcome | None) -> Outcome | None:
        match event.get("event"):
            case "message":
                self._pieces.append(_answer(event))
            case "message_end" if (named := self._names.ref) is not None:
                return Failed(RunResult(named, CUT_OFF, self._names.outputs("".join(self._pieces)), error=_NO_RUN))
            case "error" if (named := self._names.ref) is not None:
                # A message of it stands on the server, with this error [31ai].
                if isinstance(outcome, Lost):
                    return failed(named, text(event.get("message")))
                if isinstance(outcome, Rejected | Throttled):
                    return replace(outcome, left=True)
            case _:
                pass
        return outcome

    def _named(self, outcome: Outcome | None) -> Outcome | None:
        """With the names of the message among its outputs, and the run's second name."""
        ref = self.events.ref
        assert ref is not None
        match outcome:
            case Succeeded(result=result) | Failed(result=result):
                more = self._names.outputs("")
                del more["answer"]
                outputs = {**result.outputs, **more} if isinstance(result.outputs, dict) else result.outputs
                return replace(outcome, result=replace(result, ref=ref, outputs=outputs))
            case Paused():
                return replace(outcome, ref=ref)
            case Running():
                return replace(outcome, ref=ref)
            case _:
                return outcome

    def end(self, reason: str) -> Running | Lost:
        return self.events.end(reason)

    def whole(
        self, http_status: int, headers: Mapping[str, str], body: bytes, *, retry_after: float | None, first: bool
    ) -> Outcome:
        word = word_of(http_status, headers, body)
        return kind_refusal(self.kind, word, retry_after=retry_after, first=first)
