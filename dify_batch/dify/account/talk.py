"""The events of a batch's run, of whichever kind of app, as an outcome. Pure.

A workflow's are read as everywhere. A chatflow's name a message as well, which its result keeps. Chat, agent and
completion have neither a run nor a detail of it: what breaks before `message_end` is lost, and stays unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dify_batch.dify.account.answer import Fold
from dify_batch.dify.protocol import Events
from dify_batch.outcomes import Failed, Lost, Outcome, Running, RunRef, RunResult, Succeeded


@dataclass(slots=True)
class Talk:
    mode: str
    events: Events = field(default_factory=Events)
    _fold: Fold = field(init=False)
    _message: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._fold = Fold(self.mode)

    @property
    def needs_all(self) -> bool:
        """Whether every event of the stream matters: the text of a chat stands in many."""
        return self.mode not in ("workflow", "advanced-chat")

    def feed(self, event: Mapping[str, Any]) -> Outcome | None:
        """The outcome, as soon as there is one."""
        if self.needs_all:
            return self._talk(event)
        for name in ("conversation_id", "message_id"):
            if isinstance(value := event.get(name), str):
                self._message.setdefault(name, value)
        outcome = self.events.feed(event)
        if isinstance(outcome, Succeeded) and self._message:
            outputs = {**outcome.result.outputs, **self._message}
            return replace(outcome, result=replace(outcome.result, outputs=outputs))
        return outcome

    def end(self, reason: str) -> Running | Lost:
        """What it came to where the stream gave no end."""
        if self.needs_all:
            return Lost(reason, server_error=False, accepted=self.events.accepted)
        return self.events.end(reason)

    def _talk(self, event: Mapping[str, Any]) -> Outcome | None:
        fold = self._fold
        fold.feed(event)
        end = fold.end
        if end is None:
            return None
        if not end.good:  # the model gave an error: executed, in part paid, and ended
            return Failed(self._result("failed", end.error))
        usage = fold.usage or {}
        if usage.get("total_tokens") == 0:
            # What looks whole and is not: past the server's time limit, or stopped [32ab, 32u].
            return Failed(self._result("failed", "cut_off: the answer tells no use of the model, so it is not whole"))
        return Succeeded(self._result("succeeded", None))

    def _result(self, status: str, error: str | None) -> RunResult:
        fold = self._fold
        usage = fold.usage or {}
        names = {"conversation_id": fold.conversation_id, "message_id": fold.message_id}
        tokens, price, currency = (usage.get(name) for name in ("total_tokens", "total_price", "currency"))
        return RunResult(
            ref=RunRef(fold.message_id or "", fold.task_id),
            status=status,
            outputs={"answer": fold.text, **{name: value for name, value in names.items() if value is not None}},
            error=error,
            total_tokens=tokens if isinstance(tokens, int) else None,
            total_price=str(price) if price is not None else None,
            currency=str(currency) if currency is not None else None,
        )
