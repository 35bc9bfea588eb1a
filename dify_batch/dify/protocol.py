"""Dify's answers and events, turned into outcomes. Pure: no network, no clock.

Facts come from recorded exchanges of a Dify 1.14.2 server; the numbers in brackets name them.
Four readers, one for each place that tells how a run went:

    answer_outcome(...)   the answer to a blocking POST, or an error answer to any POST
    Events                the events of a stream, one at a time
    detail_outcome(...)   run detail, the server's own record
    follow_outcome(...)   an answer in place of a run's events

Whose word an answer is, and what a refusal means, stands in `word.py`; what a run came to, in `results.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

from dify_batch.dify.results import ended, form_of, forms_of, text
from dify_batch.dify.sums import Sums
from dify_batch.dify.word import event_refusal, refusal, word_of
from dify_batch.outcomes import Failed, Lost, Outcome, Paused, PausedForm, Running, RunRef, Succeeded, Unreachable
from dify_batch.strictjson import json_object

# Dify's ids. An event of a kind that is not known yet may bear anything under the same name.
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def answer_outcome(
    http_status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    retry_after: float | None = None,
    first: bool = False,
) -> Outcome:
    """The outcome of a whole (not streamed) answer to a POST that runs a workflow.

    `first`: Dify has not answered yet in this invocation. `retry_after`: seconds that the answer asked for.
    """
    parsed = json_object(body) if 200 <= http_status < 300 else None
    data = None if parsed is None else parsed.get("data")
    if parsed is None or not isinstance(data, dict):
        return refusal(word_of(http_status, headers, body), retry_after=retry_after, first=first)
    names = {text(name) for name in (parsed.get("workflow_run_id"), data.get("id")) if name}
    if len(names) != 1:
        return Lost("the answer names two runs" if names else "the answer has no run id", http_status)
    return ended(data, RunRef(names.pop(), text(parsed.get("task_id")) or None), final=False)


class Reader(Protocol):
    """Reads the answer to one POST, event by event or whole. `every`: whether each event of a stream matters to it."""

    ref: RunRef | None
    accepted: bool

    @property
    def every(self) -> bool: ...

    def feed(self, event: Mapping[str, Any]) -> Outcome | None:
        """The outcome, as soon as an event tells it."""

    def end(self, reason: str) -> Running | Lost:
        """What it came to when the stream ended, broke or fell silent without one."""

    def whole(
        self, http_status: int, headers: Mapping[str, str], body: bytes, *, retry_after: float | None, first: bool
    ) -> Outcome:
        """What an answer in one piece came to."""


@dataclass(slots=True)
class Events:
    """Follows the events of one run's stream.

    `feed` takes one event (the parsed JSON of its data) and gives an outcome as soon as there is one.
    `end` tells what it came to when the stream ended, broke or fell silent without one.
    """

    ref: RunRef | None = None
    forms: tuple[PausedForm, ...] = ()
    accepted: bool = False
    sums: Sums | None = None
    every: ClassVar[bool] = False

    def feed(self, event: Mapping[str, Any]) -> Outcome | None:
        name = event.get("event")
        data = event.get("data")
        if name == "error":
            message = text(event.get("message"))
            if self.ref is None:
                return event_refusal(message)
            return Running(self.ref, f"an error event after the start: {message}")
        if not isinstance(data, dict):
            return None
        # The first event that names a run is its start: some servers lose workflow_started.
        run_id = text(event.get("workflow_run_id") or (data.get("id") if name == "workflow_started" else None))
        if self.ref is None:
            if run_id and (name == "workflow_started" or _UUID.fullmatch(run_id)):
                self.ref = RunRef(run_id, text(event.get("task_id")) or None)
            if self.ref is None:
                return None
        elif run_id and run_id != self.ref.run_id:
            if name in ("workflow_started", "workflow_finished", "workflow_paused"):
                return Running(self.ref, "its stream told of another run")
            return None
        if name == "workflow_finished":
            return self._told(ended(data, self.ref, final=False, over=True))
        if name == "human_input_required":
            form = form_of(data)
            if form.token not in {known.token for known in self.forms}:
                self.forms += (form,)
        elif name == "workflow_paused":
            return Paused(self.ref, forms_of(data) or self.forms)
        else:
            if self.sums is None:
                self.sums = Sums()
            self.sums.add(name, data)
        return None

    def _told(self, outcome: Outcome) -> Outcome:
        """With what the nodes' events told: the end itself tells neither prices nor nodes [35b1]."""
        if self.sums is None or not isinstance(outcome, Succeeded | Failed):
            return outcome
        return replace(outcome, result=self.sums.into(outcome.result, failed=isinstance(outcome, Failed)))

    def end(self, reason: str) -> Running | Lost:
        if self.ref is not None:
            return Running(self.ref, reason)
        return Lost(reason, accepted=self.accepted)

    def whole(
        self, http_status: int, headers: Mapping[str, str], body: bytes, *, retry_after: float | None, first: bool
    ) -> Outcome:
        return answer_outcome(http_status, headers, body, retry_after=retry_after, first=first)


def detail_outcome(http_status: int, body: bytes, ref: RunRef) -> Outcome | None:
    """The outcome told by run detail (`GET /workflows/run/{id}`); None where the server does not know the run
    (404 [13d]). `Unreachable` means that nothing was learnt: ask again.
    """
    if 200 <= http_status < 300:
        data = json_object(body)
        if data is None or ("status" not in data and data.get("finished_at") is None):
            return Unreachable("run detail could not be read")
        if data.get("id") and text(data["id"]) != ref.run_id:
            return Unreachable("run detail told of another run")
        return ended(data, ref, final=True)
    word = word_of(http_status, {}, body)
    if word.dify and http_status == 404 and word.code == "not_found":
        return None
    if word.dify and http_status in (401, 403):
        return refusal(word)
    return Unreachable(f"run detail answers {word.shown if not word.dify else f'HTTP {http_status}'}")


def follow_outcome(http_status: int, body: bytes, ref: RunRef) -> Outcome:
    """The outcome of an answer to `GET /workflow/{id}/events` that is no stream.

    404 is given for another user's run too [24f], so it says nothing of the run: Running, and run detail decides.
    """
    word = word_of(http_status, {}, body)
    if word.dify and http_status in (401, 403):
        return refusal(word)
    if word.dify and http_status == 404:
        return Running(ref, "the server has no events of it (HTTP 404)")
    said = f"HTTP {http_status}: {word.shown}" if word.dify else word.shown
    return Unreachable(f"the run's events: {said}")
