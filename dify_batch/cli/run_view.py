"""How one run is shown: its answer while it arrives, its end, its pause."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from dify_batch.cli.channels import write
from dify_batch.cli.output import note, present, shown
from dify_batch.cli.run_inputs import dumped
from dify_batch.dify.account.answer import REFUSED, RunAnswer
from dify_batch.errors import DifyBatchError
from dify_batch.outcomes import PausedForm


class Live:
    """Text that is written as it arrives; `wrote` tells whether any was."""

    def __init__(self, *, on: bool) -> None:
        self._on = on
        self.wrote: bool = False

    def show(self, text: str) -> None:
        if self._on:
            write(sys.stdout, shown(text))
            self.wrote = True


class RunView:
    """A run that ended well or waits for a person. `next_step`: what a person types then."""

    def __init__(self, answer: RunAnswer, *, live: Live, warnings: Sequence[str], next_step: str | None) -> None:
        self._answer = answer
        self._live = live
        self._warnings = warnings
        self.next_step = next_step

    def data(self) -> Any:
        return self._answer.as_dict() | ({"warnings": list(self._warnings)} if self._warnings else {})

    def text(self, width: int) -> str:
        answer = self._answer
        if answer.status == "paused":
            return "\n".join(["paused: the run waits for a person", *map(form_text, answer.forms)])
        if self._live.wrote:
            return ""
        return answer.answer if answer.answer is not None else outputs_text(answer.outputs)


def outputs_text(outputs: Mapping[str, Any]) -> str:
    """One output is its value; several are one a line, longer ones below their names."""
    if len(outputs) == 1:
        return dumped(next(iter(outputs.values())))
    lines = []
    for name, value in outputs.items():
        text = dumped(value)
        lines.append(f"{name}:\n{text}" if "\n" in text else f"{name}: {text}")
    return "\n".join(lines)


def form_text(form: PausedForm) -> str:
    """A form for people: what it says, what it asks, what may be done, until when."""
    lines = [form.content or ""]
    if form.inputs:
        lines.append(f"inputs:  {', '.join(form.inputs)}")
    lines.append(f"actions: {', '.join(form.actions)}")
    if form.expires_at is not None:
        lines.append(f"until:   {datetime.fromtimestamp(form.expires_at, UTC):%Y-%m-%d %H:%M} UTC")
    if form.token:
        lines.append(f"form:    {form.token}")
    return "\n".join(lines)


def resume_command(app_id: str, answer: RunAnswer) -> str | None:
    """The command that answers the form of a paused run."""
    if answer.status != "paused" or not answer.forms:
        return None
    form = answer.forms[0]
    words = ["dify-batch", "resume", "app", app_id, str(answer.run_id or form.token)]
    words += ["--action", form.actions[0] if form.actions else "ACTION"]
    for name in form.inputs:
        words += ["--input", f"{name}=…"]
    return shlex.join(words)


def go_on_command(noun: str, app_id: str, answer: RunAnswer) -> str | None:
    """The command that says the next thing in a conversation."""
    if answer.conversation_id is None or answer.status == "paused":
        return None
    return shlex.join(["dify-batch", "run", noun, app_id, "MESSAGE", "--conversation", answer.conversation_id])


def show_run(view: RunView, form: str, *, quiet: bool, partial: bool) -> None:
    """Shows a good end in its format, and what comes next where people read."""
    present(view, form)
    if quiet:
        return
    if partial:
        note("partial-succeeded: some steps failed, and the workflow went on")
    if view.next_step:
        note(f"go on with: {view.next_step}")


def bad_end(answer: RunAnswer, *, stopped_by: str | None, required: str) -> DifyBatchError:
    """The error that a run without a good end is."""
    run = f" (run {answer.run_id})" if answer.run_id else ""
    why = answer.error or "the server gave no reason"
    facts: dict[str, Any] = {"run": answer.as_dict()}
    if stopped_by is not None and answer.status in ("stopped", "succeeded"):
        return DifyBatchError(f"{stopped_by}: the run was stopped on the server{run}", code=stopped_by, **facts)
    if answer.status == REFUSED:
        return DifyBatchError(f"the run was refused: {why}", code="server_4xx_other", hint=required, **facts)
    if answer.status == "stopped":
        return DifyBatchError(f"the run was stopped{run}: {why}", code="run_stopped", **facts)
    if answer.status == "unknown":
        hint = "it may go on, or have ended: look at the app's log in Dify before you run it again"
        return DifyBatchError(
            f"what became of the run is not known{run}: {why}", code="run_unknown", hint=hint, **facts
        )
    shown_status = "failed" if answer.status == "failed" else f'ended as "{answer.status}"'
    return DifyBatchError(f"the run {shown_status}{run}: {why}", code="run_failed", **facts)
