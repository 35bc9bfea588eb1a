"""One row tried, for people who build a workflow: its run node by node. No journal, no result, nothing repeated."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dify_batch.dify.client import DifyClient
from dify_batch.dify.results import forms_of, run_result
from dify_batch.dify.watching import RunEvent
from dify_batch.errors import (
    AppError,
    AuthError,
    ConnectionFailed,
    DifyBatchError,
    InvalidInput,
    RateLimited,
    ServerError,
    UsageError,
)
from dify_batch.input.files import Inputs, find_local, with_uploads
from dify_batch.input.form import Form
from dify_batch.input.records import Problem, Row
from dify_batch.input.rows import RowSource
from dify_batch.outcomes import (
    Failed,
    Fatal,
    Lost,
    Paused,
    Rejected,
    Running,
    RunRef,
    RunResult,
    Succeeded,
    Throttled,
    Unreachable,
)
from dify_batch.settings import Settings
from dify_batch.text import show

NO_TABLE = "try"
"""The id of a row that stands in no table."""


@dataclass(frozen=True, slots=True)
class NodeRun:
    """What one node of the workflow did. `elapsed_time` seconds; `total_price` exact text."""

    title: str
    type: str
    status: str
    elapsed_time: float | None = None
    total_tokens: int | None = None
    total_price: str | None = None
    currency: str | None = None
    error: str | None = None

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> NodeRun:
        """From the data of node_finished."""
        meta = data.get("execution_metadata")
        meta = meta if isinstance(meta, dict) else {}
        elapsed, tokens = data.get("elapsed_time"), meta.get("total_tokens")
        return cls(
            title=str(data.get("title") or data.get("node_id") or ""),
            type=str(data.get("node_type") or ""),
            status=str(data.get("status") or ""),
            elapsed_time=elapsed if isinstance(elapsed, int | float) else None,
            total_tokens=tokens if isinstance(tokens, int) else None,
            total_price=_text(meta.get("total_price")),
            currency=_text(meta.get("currency")),
            error=_text(data.get("error")),
        )

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class Trial:
    """What became of the row. `result` is there once the run has ended; `forms` where it waits for a person."""

    id: str
    inputs: Mapping[str, Any]
    ref: RunRef | None = None
    nodes: list[NodeRun] = field(default_factory=list)
    result: RunResult | None = None
    forms: list[dict[str, Any]] = field(default_factory=list)
    paused: bool = False

    @property
    def status(self) -> str:
        return "paused" if self.paused else self.result.status if self.result else "running"

    @property
    def good(self) -> bool:
        return self.status in ("succeeded", "partial-succeeded", "paused")

    def as_dict(self) -> dict[str, Any]:
        result = self.result
        return {
            "id": self.id,
            "status": self.status,
            "inputs": self.inputs,
            "outputs": result and result.outputs,
            "error": result and result.error,
            "workflow_run_id": self.ref and self.ref.run_id,
            "task_id": self.ref and self.ref.task_id,
            "elapsed_time": result and result.elapsed_time,
            "total_tokens": result and result.total_tokens,
            "nodes": [node.as_dict() for node in self.nodes],
            "forms": self.forms,
        }


def row_to_try(
    settings: Settings, form: Form, *, source: str | None, row_id: str | None, values: Mapping[str, str]
) -> tuple[str, Inputs]:
    """The id and the inputs of the row: of `row_id` in the table `source`, its first row, or of `values` alone.

    `values`: input or column → text; it goes before what the table has.

    Raises:
        UsageError: the table has no such row.
        InvalidInput: the row does not fit the form.
    """
    if source is None:
        header = ("id", *(name for name in values if name != "id"))
        cells = {"id": NO_TABLE, **values}
        bound = form.bind(header, id_column="id", base_dir=Path())
        return cells["id"], _checked(bound.problems, *bound.inputs(Row(1, 1, cells["id"], cells)))
    with RowSource.open(
        source,
        encoding=settings.encoding,
        delimiter=settings.delimiter,
        id_column=settings.id_column,
        sheet=settings.sheet,
    ) as table:
        known = set(table.header)
        bound = form.bind(
            table.header,
            id_column=table.id_column,
            base_dir=table.base_dir,
            typed=table.typed,
            constants={name: text for name, text in values.items() if name not in known},
        )
        for item in table:
            if item.id != row_id and row_id is not None:
                continue
            if isinstance(item, Problem):
                raise _invalid([item])
            item = Row(item.number, item.line, item.id, item.values | {n: v for n, v in values.items() if n in known})
            return item.id, _checked(bound.problems, *bound.inputs(item))
    what = "no row" if row_id is None else f"no row with the id {show(row_id)}"
    raise UsageError(f"{source} has {what}", hint="see its first column", code="usage_invalid_flag")


def _checked(of_table: tuple[Problem, ...], inputs: Inputs, of_row: list[Problem]) -> Inputs:
    if problems := [*of_table, *of_row]:
        raise _invalid(problems)
    return inputs


def _invalid(problems: list[Problem]) -> InvalidInput:
    lines = "\n".join(f"  {problem}" for problem in problems)
    return InvalidInput(
        f"the row cannot be sent; nothing was sent:\n{lines}",
        hint="see `dify-batch form` for what the app asks for",
        code="invalid_rows",
        problems=[problem.as_dict() for problem in problems],
    )


async def try_row(
    client: DifyClient,
    row_id: str,
    inputs: Inputs,
    *,
    user: str,
    on_event: Callable[[RunEvent], None],
    timeout: float = 1200.0,
) -> Trial:
    """Sends the row once, and follows its run to the end. Cancelled, it stops the run on the server.

    Raises:
        ConnectionFailed: no connection, or sight of the run was lost; details has run_id where it is known.
        AuthError, AppError, RateLimited, ServerError: the server refused.
    """
    uploads = {
        file: await client.upload(file.path, user=user, mime=file.mime_type)
        for file in find_local(inputs.values, inputs.files)
    }
    sent = with_uploads(inputs, uploads)
    trial = Trial(row_id, sent.values)
    events = client.events(sent.values, user=user, files=sent.files, timeout=timeout)
    try:
        async with contextlib.aclosing(events):
            async for event in events:
                _note(trial, event)
                on_event(event)
    except asyncio.CancelledError:
        if trial.ref is not None and trial.ref.task_id is not None:
            with contextlib.suppress(DifyBatchError):
                await client.stop(trial.ref.task_id, user=user)
        raise
    if trial.result is None and not trial.paused:
        raise ConnectionFailed("the run's end was not told", run_id=trial.ref and trial.ref.run_id)
    return trial


async def try_answer(client: DifyClient, row_id: str, inputs: Inputs, *, user: str, timeout: float = 1200.0) -> Trial:
    """As `try_row`, for an app that runs no workflow: its answer comes in one piece, and has no nodes to show."""
    uploads = {
        file: await client.upload(file.path, user=user, mime=file.mime_type)
        for file in find_local(inputs.values, inputs.files)
    }
    sent = with_uploads(inputs, uploads)
    trial = Trial(row_id, sent.values)
    mode: Literal["streaming", "blocking"] = "blocking"
    outcome = await client.run(sent.values, user=user, mode=mode, files=sent.files, timeout=timeout)
    match outcome:
        case Succeeded(result=result) | Failed(result=result):
            trial.ref, trial.result = result.ref, result
        case Running(reason=reason) | Lost(reason=reason):
            raise ConnectionFailed(reason, hint="its answer may be made all the same: look at the app's log in Dify")
        case Unreachable(message=message):
            raise ConnectionFailed(message, hint="check the network and DIFY_API_BASE_URL")
        case Throttled(message=message):
            raise RateLimited(message, hint="wait, then try again")
        case Fatal(message=message, kind="auth"):
            raise AuthError(message, hint="set DIFY_API_KEY to the key of the app (API Access in Dify)")
        case Fatal(message=message, hint=hint):
            raise AppError(message, hint=hint or "look at the app in Dify")
        case Rejected(message=message):
            raise ServerError(f"the server refuses the row: {message}", code="server_4xx_other")
        case Paused():
            raise AssertionError("what runs no workflow does not pause")
    return trial


def _note(trial: Trial, event: RunEvent) -> None:
    if event.run_id is not None and trial.ref is None:
        trial.ref = RunRef(event.run_id, event.task_id)
    match event.name:
        case "node_finished":
            trial.nodes.append(NodeRun.of(event.data))
        case "workflow_finished" if trial.ref is not None:
            trial.result = run_result(event.data, trial.ref)
        case "message_end" if trial.ref is None:
            raise ServerError("no workflow ran: the app's moderation answered in its place", code="server_4xx_other")
        case "workflow_paused":
            trial.paused = True
            trial.forms = [form.as_dict() for form in forms_of(event.data)]
        case "error":
            message = str(event.data.get("message") or "without a message")
            raise ServerError(f"the server says: {message}", code="server_4xx_other")


def _text(value: object) -> str | None:
    return None if value is None or value == "" else str(value)


def new_user(token: str) -> str:
    """The `user` that a trial is sent under: apart from those of batches, so that no look-up takes it for a row's."""
    return f"dify-batch-try-{os.getpid():x}-{token}"
