"""What a run of any kind of app came to, out of the events of its stream. Pure.

A workflow ends with workflow_finished or workflow_paused; a chatflow tells its message before that; chat, agent and
completion end with message_end. The numbers in brackets name recorded exchanges of a Dify 1.14.2 server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dify_batch.dify.results import SUCCESS, forms_of
from dify_batch.outcomes import PausedForm

UNKNOWN = "unknown"
REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class RunAnswer:
    """How a run stands. `status`: the server's word (succeeded, partial-succeeded, failed, stopped, paused), "refused"
    where nothing ran, "unknown" where its end was not seen. `error` says why where it is none of the good ones."""

    mode: str
    status: str
    outputs: Mapping[str, Any] = field(default_factory=dict)
    answer: str | None = None
    run_id: str | None = None
    task_id: str | None = None
    conversation_id: str | None = None
    message_id: str | None = None
    error: str | None = None
    elapsed_time: float | None = None
    total_tokens: int | None = None
    usage: Mapping[str, Any] | None = None
    forms: tuple[PausedForm, ...] = ()

    @property
    def good(self) -> bool:
        return self.status in SUCCESS or self.status == "paused"

    def as_dict(self) -> dict[str, Any]:
        """For machines: what there is, under the server's names."""
        found: dict[str, Any] = {"status": self.status, "mode": self.mode}
        names = ("answer", "conversation_id", "message_id", "task_id", "error", "elapsed_time", "total_tokens", "usage")
        found |= {name: value for name in names if (value := getattr(self, name)) is not None}
        if self.run_id is not None:
            found["workflow_run_id"] = self.run_id
        if self.mode in ("workflow", "advanced-chat"):
            found["outputs"] = dict(self.outputs)
        if self.forms:
            found["forms"] = [form.as_dict() for form in self.forms]
        return found


@dataclass(slots=True)
class Fold:
    """Follows the events of one run. `feed` gives the text that an event adds to what is shown."""

    mode: str
    run_id: str | None = None
    task_id: str | None = None
    text: str = ""
    begun: bool = False
    end: RunAnswer | None = None
    conversation_id: str | None = None
    message_id: str | None = None
    usage: Mapping[str, Any] | None = None
    forms: tuple[PausedForm, ...] = ()

    def feed(self, event: Mapping[str, Any]) -> str:
        name, data = event.get("event"), event.get("data")
        data = data if isinstance(data, dict) else {}
        self._names(event)
        if name == "error":
            self._refuse(str(event.get("message") or "the server gave no reason"))
        elif name in ("message", "agent_message"):
            self.begun = True
            return self._add(event.get("answer"))
        elif name == "text_chunk" and self.mode == "workflow":
            return self._add(data.get("text"))
        elif name == "message_replace":  # output moderation: another text in place of all so far [32t2]
            self.text = str(event.get("answer") or "")
        elif name == "message_end":
            metadata = event.get("metadata")
            usage = metadata.get("usage") if isinstance(metadata, dict) else None
            self.usage = usage if isinstance(usage, dict) else None
            if self.run_id is None:  # else workflow_finished follows [31b, 31t1]
                self.end = self._answer("succeeded")
        elif name == "workflow_paused":
            self.forms = forms_of(data) or self.forms
            self.end = self._answer("paused")
        elif name == "workflow_finished":
            self._finish(data)
        return ""

    def _names(self, event: Mapping[str, Any]) -> None:
        for name in ("workflow_run_id", "task_id", "conversation_id", "message_id"):
            value = event.get(name)
            if isinstance(value, str) and value:
                mine = "run_id" if name == "workflow_run_id" else name
                if getattr(self, mine) is None:
                    setattr(self, mine, value)
        self.begun = self.begun or self.run_id is not None

    def _add(self, piece: object) -> str:
        text = piece if isinstance(piece, str) else ""
        self.text += text
        return text

    def _refuse(self, message: str) -> None:
        """An error event. Of a workflow: before anything began it is a refusal [27i3], after it the end was not seen. A
        chat is checked before its stream begins, so there it is the model's: executed, and failed [32s]."""
        if self.mode in ("workflow", "advanced-chat"):
            self.end = self._answer(UNKNOWN if self.begun else REFUSED, error=message)
        else:
            self.end = self._answer("failed", error=message)

    def _finish(self, data: Mapping[str, Any]) -> None:
        outputs = data.get("outputs")
        error = data.get("error")
        status = str(data.get("status") or UNKNOWN)
        tokens = data.get("total_tokens")
        elapsed = data.get("elapsed_time")
        self.end = self._answer(
            status,
            outputs=outputs if isinstance(outputs, dict) else {} if outputs is None else {"outputs": outputs},
            error=None if error is None else str(error),
            total_tokens=tokens if isinstance(tokens, int) else None,
            elapsed_time=elapsed if isinstance(elapsed, (int, float)) else None,
        )

    def lost(self, reason: str) -> RunAnswer:
        """What is known where the end was not seen."""
        return self._answer(UNKNOWN, error=reason)

    def _answer(self, status: str, **more: Any) -> RunAnswer:
        outputs = more.get("outputs") or {}
        answer = None
        if self.mode != "workflow":
            told = outputs.get("answer")
            answer = told if isinstance(told, str) else self.text
        if self.usage is not None and "total_tokens" not in more:
            tokens = self.usage.get("total_tokens")
            more["total_tokens"] = tokens if isinstance(tokens, int) else None
        return RunAnswer(
            mode=self.mode,
            status=status,
            answer=answer,
            run_id=self.run_id,
            task_id=self.task_id,
            conversation_id=self.conversation_id,
            message_id=self.message_id,
            usage=self.usage,
            forms=self.forms,
            **more,
        )
