"""Runs and the log: all that the simulated Postgres holds, indexed so that no request scans every run."""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from .apps import WORKFLOW_VERSION, App, Inputs, Node
from .channel import Channel
from .ledger import Execution
from .wire import derived_id

STOP_ERROR = "Aborted: User requested stop"  # in run detail (dify-wire 16d)
KEYWORD_LENGTH = 30  # Dify uses no more of a keyword (dify-wire 14k)


@dataclass(slots=True)
class NodeRun:
    """One execution of a node. finished is None while it is going on."""

    id: str
    node: Node
    started: int  # seconds since 1970
    began: float  # Means.monotonic()
    finished: int | None = None
    elapsed: float = 0.0
    status: str = "running"


@dataclass(slots=True)
class Form:
    """The form that a paused run waits for. token: what opens it."""

    id: str
    token: str
    expires: int
    content: str
    template: str
    submitted: bool = False
    action: str = ""
    answers: dict[str, Any] = field(default_factory=dict)


class Ending(NamedTuple):
    """How a run ended, as told on the wire. elapsed: seconds; created_at, finished_at: seconds since 1970."""

    status: str
    outputs: Inputs
    error: str | None
    elapsed: float
    tokens: int
    steps: int
    created_at: int
    finished_at: int | None
    exceptions: int = 0


@dataclass(slots=True)
class Live:
    """What a run needs only while it is not finished."""

    inputs: Inputs
    execution: Execution
    channels: list[Channel] = field(default_factory=list)
    nodes: list[NodeRun] = field(default_factory=list)
    wake: asyncio.Future[None] | None = None
    stop: bool = False
    stopped_by: str = ""  # the user who asked for it
    on_end: Callable[[Run, Ending], None] | None = None
    form: Form | None = None


@dataclass(slots=True)
class Run:
    """One run. inputs and outputs are kept as JSON text, which is small and what run detail wants."""

    id: str
    task_id: str
    app: App
    user: str
    row: str
    mode: str  # blocking, streaming
    inputs: str
    created_at: float
    status: str = "running"
    outputs: str = "{}"
    error: str | None = None
    elapsed: float = 0.0
    tokens: int = 0
    steps: int = 0
    exceptions: int = 0
    finished_at: float | None = None
    oddity: str = ""  # the fault that goes with it for as long as anybody asks
    lag: float = 0.0  # seconds until log and run detail know of its end
    live: Live | None = None
    owner: str = ""  # the end user's id
    dialogue: int = 0  # of a chatflow: which message of its conversation it answers
    account: dict[str, Any] | None = None  # who made it, where that is an account and no end user

    def created_by(self) -> dict[str, Any]:
        """Who made it, as workflow_finished tells."""
        return self.account or {"id": self.end_user, "user": self.user}

    def system_inputs(self, timestamp: bool) -> dict[str, Any]:
        """Dify's own inputs; `sys.timestamp` is in run detail and snapshots, not in the POST stream."""
        values: dict[str, Any] = {"sys.files": [], "sys.user_id": self.user}
        if self.dialogue:
            values["sys.dialogue_count"] = self.dialogue
        values["sys.app_id"] = self.app.id
        if timestamp and not self.dialogue:
            values["sys.timestamp"] = int(self.created_at)
        return values | {"sys.workflow_id": self.app.workflow_id, "sys.workflow_run_id": self.id}

    def has_ended(self) -> bool:
        """Whether the end is stored."""
        return self.finished_at is not None

    @property
    def end_user(self) -> str:
        """The id that Dify gives the `user` within the app."""
        return derived_id("end_user", self.app.key, self.user)

    def told_at(self, now: float, lag: float = 0.0) -> Run:
        """The run as log and run detail know it: still running, if its end is younger than their lag. Seconds."""
        if self.finished_at is None or now - self.finished_at >= max(lag, self.lag):
            return self
        return replace(
            self,
            status="running",
            outputs="{}",
            error=None,
            elapsed=0.0,
            tokens=0,
            steps=0,
            exceptions=0,
            finished_at=None,
        )

    def detail(self, outputs_as_text: bool = False) -> dict[str, Any]:
        """GET /v1/workflows/run/{id}: `inputs` is JSON in a string (dify-wire 13)."""
        return {
            "id": self.id,
            "workflow_id": self.app.workflow_id,
            "status": self.status,
            "inputs": json.dumps(json.loads(self.inputs) | self.system_inputs(timestamp=True)),
            "outputs": self.outputs if outputs_as_text else json.loads(self.outputs),
            "error": self.error,
            "total_steps": self.steps,
            "total_tokens": self.tokens,
            "created_at": int(self.created_at),
            "finished_at": None if self.finished_at is None else int(self.finished_at),
            "elapsed_time": self.elapsed,
        }

    def log_row(self) -> dict[str, Any]:
        """One row of GET /v1/workflows/logs: no outputs (dify-wire 14)."""
        return {
            "id": derived_id("log", self.id),
            "workflow_run": {
                "id": self.id,
                "version": WORKFLOW_VERSION,
                "status": self.status,
                "triggered_from": "app-run",
                "error": self.error,
                "elapsed_time": self.elapsed,
                "total_tokens": self.tokens,
                "total_steps": self.steps,
                "created_at": int(self.created_at),
                "finished_at": None if self.finished_at is None else int(self.finished_at),
                "exceptions_count": self.exceptions,
            },
            "details": None,
            "created_from": "service-api" if self.account is None else "openapi",
            "created_by_role": "end_user" if self.account is None else "account",
            "created_by_account": self.account,
            "created_by_end_user": None
            if self.account is not None
            else {
                "id": self.end_user,
                "type": "service-api",
                "is_anonymous": False,
                "session_id": self.user,
            },
            "created_at": int(self.created_at),
        }

    def matches(self, keyword: str) -> bool:
        """Dify's keyword search: part of inputs, outputs or user, or the whole run id (dify-wire 14f-14k)."""
        if keyword == self.id:
            return True
        part = keyword[:KEYWORD_LENGTH].lower()
        return part in self.inputs.lower() or part in self.outputs.lower() or part in self.user.lower()


@dataclass(frozen=True, slots=True)
class LogQuery:
    """The filters of GET /v1/workflows/logs. after, before: seconds since 1970."""

    page: int = 1
    limit: int = 20
    user: str | None = None
    status: str | None = None
    keyword: str | None = None
    after: float | None = None
    before: float | None = None
    account: str | None = None  # an e-mail address: this account's runs only


class Registry:
    """All runs. Within an app, and within a user, they are in the order of their start."""

    def __init__(self) -> None:
        self.by_id: dict[str, Run] = {}
        self.by_task: dict[str, Run] = {}  # only the live ones
        self.by_form: dict[str, Run] = {}
        self._by_app: dict[str, list[Run]] = {}
        self._by_user: dict[tuple[str, str], list[Run]] = {}

    def add(self, run: Run) -> None:
        """Enters a run that begins."""
        self.by_id[run.id] = run
        self.by_task[run.task_id] = run
        if run.app.mode != "workflow" and run.account is None:
            return  # the log of an app that talks is always empty (dify-wire 31c)
        self._by_app.setdefault(run.app.key, []).append(run)
        self._by_user.setdefault((run.app.key, run.user), []).append(run)

    def forget(self, before: float) -> None:
        """What began before then is in no log any more, whatever became of it, as on the free plan of Dify's cloud."""
        old = {run.id for run in self.by_id.values() if run.created_at < before}
        for runs in (*self._by_app.values(), *self._by_user.values()):
            runs[:] = [run for run in runs if run.id not in old]
        for run_id in old:
            del self.by_id[run_id]

    def find(self, app: App, run_id: str) -> Run | None:
        """The run of that id, if it is this app's."""
        run = self.by_id.get(run_id)
        return run if run is not None and run.app is app else None

    def of_app(self, app: App) -> list[Run]:
        """Its runs, oldest first."""
        return self._by_app.get(app.key, [])

    def log(self, app: App, query: LogQuery) -> tuple[int, list[Run]]:
        """(how many match, the asked page of them, newest first)."""
        mine = None if query.user is None else self._by_user.get((app.key, query.user), [])
        runs = self._by_app.get(app.key, []) if mine is None else mine
        low = 0 if query.after is None else bisect_left(runs, query.after, key=_created)
        high = len(runs) if query.before is None else bisect_right(runs, query.before, key=_created)
        start = (query.page - 1) * query.limit
        if query.status is None and query.keyword is None and query.account is None:
            total = max(0, high - low)
            newest = range(high - 1 - start, max(low, high - start - query.limit) - 1, -1)
            return total, [runs[i] for i in newest]
        found = [
            run
            for run in reversed(runs[low:high])
            if (query.status is None or run.status == query.status)
            and (query.keyword is None or run.matches(query.keyword))
            and (query.account is None or (run.account or {}).get("email") == query.account)
        ]
        return len(found), found[start : start + query.limit]


def _created(run: Run) -> float:
    return run.created_at
