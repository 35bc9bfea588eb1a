"""Chatflows: a workflow's run, told as a message of a conversation (dify-wire 31)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from . import events, wire
from .apps import HUMAN
from .channel import Channel, Event
from .kinds import model_tokens
from .model import no_usage, usage
from .runs import STOP_ERROR, Ending, Run
from .talks import Message
from .task import Task
from .wire import JSON_UTF8, Answer, compact

Begin = Callable[[dict[str, Any]], Message]
"""Makes the message of a run, given its checked inputs."""


def event(name: str, fields: Mapping[str, Any]) -> Event:
    """An event of an app that talks."""
    return Event(name, f"data: {compact({'event': name, **fields})}\n\n".encode())


class Telling:
    """One message of a chatflow: what its run means for it. Give its `task` to the engine."""

    def __init__(self, task: Task, begin: Begin, query: str, dialogue: int) -> None:
        self.task = task
        self.message: Message | None = None
        self._begin = begin
        self._dialogue = dialogue
        self._cut = False  # what is stored is a part, whatever the run still comes to
        task.system = {"sys.query": query}
        task.on_begin, task.on_end, task.reply, task.mute = self._begun, self._ended, self.answer, True
        if task.mode == "streaming":
            task.channel = _ChatflowChannel(self)

    def _begun(self, run: Run) -> None:
        run.dialogue = self._dialogue
        plain = {name: value for name, value in json.loads(run.inputs).items() if not name.startswith("sys.")}
        self.message = self._begin(plain)
        self.message.run = run

    def _ended(self, run: Run, ending: Ending) -> None:
        """What the database keeps of the message."""
        message = self.message
        assert message is not None
        if self._cut:
            return
        match ending.status:
            case "succeeded" | "partial-succeeded":
                message.status, message.answer = "normal", str(ending.outputs.get("answer", ""))
            case "stopped" if ending.error != STOP_ERROR:  # by its own user, or at its time limit (dify-wire 31ab)
                message.answer, self._cut = _part(run), True
            case "paused":
                message.form = None if run.live is None else run.live.form
                message.status = "paused" if run.mode == "streaming" else "normal"
            case _:
                message.status, message.error = "error", f"Run failed: {ending.error}"

    def metadata(self, run: Run, ending: Ending) -> dict[str, Any]:
        """Of message_end and of the blocking answer."""
        spent = no_usage(0.0, first=0.02, total=ending.elapsed)
        if ending.tokens:
            prompt, answer = model_tokens(json.loads(run.inputs))
            spent = usage(prompt, answer, ending.elapsed, first=0.02, total=ending.elapsed)
        return {"annotation_reply": None, "retriever_resources": [], "usage": spent}

    def answer(self, run: Run, ending: Ending) -> Answer:
        """The blocking answer: no status and no run id, but for a pause (dify-wire 31a, 31k-1, 31p2)."""
        message = self.message
        assert message is not None
        if ending.status == "failed":
            return wire.refuse(400, "invalid_param", f"Run failed: {ending.error}")
        text = message.answer if ending.status == "stopped" else str(ending.outputs.get("answer", ""))
        ids = {"conversation_id": message.conversation_id, "message_id": message.id}
        body: dict[str, Any] = {
            "event": "message",
            "task_id": run.task_id,
            "id": message.id,
            "message_id": message.id,
            "conversation_id": message.conversation_id,
            "mode": run.app.mode,
            "answer": text,
            "metadata": self.metadata(run, ending),
            "created_at": message.created_at,
        }
        if ending.status == "paused":
            nothing: dict[str, Any] = {"annotation_reply": None, "retriever_resources": [], "usage": None}
            data: dict[str, Any] = {
                "id": message.id,
                "mode": run.app.mode,
                **ids,
                "workflow_run_id": run.id,
                "answer": "",
            }
            data |= {"metadata": nothing, "created_at": message.created_at, **_pause(message)}
            data |= {"status": "paused", "elapsed_time": ending.elapsed, "total_tokens": 0, "total_steps": ending.steps}
            body |= {"event": "workflow_paused", "metadata": nothing, "workflow_run_id": run.id, "data": data}
        return Answer(200, json.dumps(body).encode(), JSON_UTF8)


class _ChatflowChannel(Channel):
    """Turns a run's events into those of a chatflow as they come (dify-wire 31b)."""

    __slots__ = ("_telling",)

    def __init__(self, telling: Telling) -> None:
        super().__init__()
        self._telling = telling

    def put(self, event_: Event) -> None:
        message = self._telling.message
        if message is None or not event_.data.startswith(b"data: "):
            super().put(event_)
            return
        old = json.loads(event_.data[len(b"data: ") :])
        facts = {
            "conversation_id": message.conversation_id,
            "message_id": message.id,
            "created_at": message.created_at,
            "task_id": old["task_id"],
        }
        if event_.name == "text_chunk":
            piece = {"id": message.id, "answer": old["data"]["text"]}
            selector = {"from_variable_selector": old["data"]["from_variable_selector"]}
            super().put(event("message", facts | piece | selector))
            return
        data = old["data"]
        if event_.name == "workflow_finished" and data["status"] in ("succeeded", "partial-succeeded"):
            run = message.run
            assert run is not None
            ending = Ending(
                data["status"], data["outputs"], None, data["elapsed_time"], data["total_tokens"], 0, 0, None
            )
            metadata = self._telling.metadata(run, ending)
            super().put(event("message_end", facts | {"id": message.id, "metadata": metadata, "files": []}))
        super().put(event(event_.name, facts | {"workflow_run_id": old["workflow_run_id"], "data": data}))


def _part(run: Run) -> str:
    """What had been said before the slow node."""
    return "".join(text for text, *_ in run.app.early(json.loads(run.inputs)))


def _pause(message: Message) -> dict[str, Any]:
    assert message.form is not None
    return {"paused_nodes": [HUMAN.id], "reasons": [events.pause_reason(message.form, message.form.content)]}


def extra_contents(message: Message) -> list[dict[str, Any]]:
    """What GET messages tells of a person's part in it (dify-wire 31p1)."""
    form = message.form
    if form is None or message.run is None:
        return []
    told = events.human_input_required(form, form.content)
    filled = {key: value for key, value in events.form_filled(form).items() if key != "submitted_data"}
    return [
        {
            "workflow_run_id": message.run.id,
            "submitted": form.submitted,
            "form_definition": None if form.submitted else told,
            "form_submission_data": filled if form.submitted else None,
            "type": "human_input",
        }
    ]
