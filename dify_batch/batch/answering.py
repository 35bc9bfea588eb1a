"""Answers to the forms of paused rows: what is asked, whether an answer fits, and sending it once.

Each answer is in the journal before it is sent. Dify takes one answer a form: a second one is refused with 412, which
is no error here, as somebody has answered elsewhere (dify-wire 18m, 18n).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tenacity import AsyncRetrying, retry_if_result, wait_fixed

from dify_batch import backoff
from dify_batch.batch.opened import Opened
from dify_batch.dify.client import DifyClient
from dify_batch.errors import ServerError
from dify_batch.ledger.rowstate import Phase
from dify_batch.ledger.state import State
from dify_batch.outcomes import Paused, RunRef, Unreachable
from dify_batch.text import show

SUBMITTED = 412
GONE = 404
RESUMES_WITHIN = 10.0
"""Seconds until a run that was answered says something else than paused: it is queued like a new one."""
LOOK_EVERY = 0.2
_PLACE = re.compile(r"\{\{#\$output\.(\w+)#\}\}")
"""Where Dify's page has the field of an input."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A form that a row waits with. `actions`: id → title; `inputs`: name → what stands in it by default."""

    id: str
    ref: RunRef | None
    user: str
    token: str
    content: str
    actions: Mapping[str, str]
    inputs: Mapping[str, str]

    def problem(self, action: str, inputs: Mapping[str, str]) -> str | None:
        """Why an answer does not fit, or None."""
        if action not in self.actions:
            return f"row {show(self.id)}: {show(action)} is no action; there are {', '.join(self.actions)}"
        unknown = [name for name in inputs if name not in self.inputs]
        if unknown:
            asked = ", ".join(self.inputs) or "none"
            return f"row {show(self.id)}: the form has no input {show(unknown[0])}; there are {asked}"
        return None


@dataclass(frozen=True, slots=True)
class Asked:
    """What the server says of the forms: those that wait, and the rows whose form was answered or has gone."""

    waiting: tuple[Waiting, ...]
    elsewhere: tuple[str, ...]
    gone: tuple[str, ...]


async def waiting_forms(client: DifyClient, state: State) -> Asked:
    """Asks the server for each form that the journal knows.

    Raises as `DifyClient.form`, but for forms that were answered elsewhere, and those that are not there any more.
    """
    waiting: list[Waiting] = []
    elsewhere: list[str] = []
    gone: list[str] = []
    for row_id, row in state.rows.items():
        if row.phase is not Phase.PAUSED:
            continue
        for form in row.forms:
            token = form.get("form_token")
            if not isinstance(token, str):
                continue
            try:
                told = await client.form(token)
            except ServerError as error:
                match error.details.get("http_status"):
                    case 412:
                        elsewhere.append(row_id)
                        continue
                    case 404:
                        gone.append(row_id)
                        continue
                raise
            body = form.get("answer_body")
            user = str(body.get("user") or "") if isinstance(body, dict) else ""
            waiting.append(_waiting(row_id, row.ref, user or row.user or "dify-batch", token, told))
    return Asked(tuple(waiting), tuple(elsewhere), tuple(gone))


def _waiting(row_id: str, ref: RunRef | None, user: str, token: str, told: Mapping[str, Any]) -> Waiting:
    inputs: dict[str, str] = {}
    for one in _objects(told.get("inputs")):
        default = one.get("default")
        value = default.get("value") if isinstance(default, dict) else None
        inputs[str(one.get("output_variable_name"))] = "" if value is None else str(value)
    actions = {str(one.get("id")): str(one.get("title") or one.get("id")) for one in _objects(told.get("user_actions"))}
    content = _PLACE.sub(r"[\1]", str(told.get("form_content") or ""))
    return Waiting(row_id, ref, user, token, content, actions, inputs)


def _objects(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


async def send_answer(
    opened: Opened, client: DifyClient, form: Waiting, action: str, inputs: Mapping[str, str]
) -> Literal["sent", "elsewhere"]:
    """Records the answer, sends it, and records what became of it. Inputs that are left out have their defaults.

    Raises:
        ServerError: the server refuses the answer; the row still waits.
        StorageError: it could not be recorded, and was not sent.
    """
    full = {**form.inputs, **inputs}
    opened.ledger.answering(form.id, token=form.token, action=action, inputs=full, user=form.user)
    await opened.flush()
    how: Literal["sent", "elsewhere"] = "sent"
    try:
        await client.submit_form(form.token, inputs=full, action=action, user=form.user)
    except ServerError as error:
        if error.details.get("http_status") != SUBMITTED:
            opened.ledger.answered(form.id, token=form.token, how=error.message)
            raise
        how = "elsewhere"
    opened.ledger.answered(form.id, token=form.token, how=how)
    return how


async def until_resumed(client: DifyClient, refs: Iterable[RunRef | None], within: float = RESUMES_WITHIN) -> None:
    """Waits until none of the runs says that it is paused, or so many seconds."""

    async def resumed(ref: RunRef) -> None:
        looking = AsyncRetrying(
            retry=retry_if_result(lambda detail: isinstance(detail.outcome, Paused | Unreachable)),
            wait=wait_fixed(LOOK_EVERY),
            sleep=backoff.pause,
        )
        await looking(client.run_detail, ref)

    tasks = [asyncio.create_task(resumed(ref)) for ref in dict.fromkeys(refs) if ref is not None]
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=within)
        for task in late:
            task.cancel()
