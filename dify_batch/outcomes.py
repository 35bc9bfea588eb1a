"""What an attempt came to: one class for each row of the outcome table.

    outcome      did a run start?   what follows (policy "safe")
    Succeeded    yes                a result
    Paused       yes                `.paused`; collected when its form has been answered
    Failed       yes, and ended     `.retry`
    Invalid      yes, and ended     `.retry`; its answer, which misses --expect, is kept in the journal
    Rejected     no                 `.retry`, not repeated
    Throttled    no                 wait, repeat; the whole batch slows down
    Unreachable  no                 wait, repeat
    Running      yes                followed by its run id, never sent again
    Lost         cannot tell        looked up on the server before anything is sent again
    Fatal        no                 the batch stops, the rest stays untouched

What follows is decided in `policy.py`; how an answer becomes an outcome, in `protocol.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class RunRef:
    """The names of one run on the server. `task_id` is what a stop needs; run detail does not tell it.

    `run_id`: of a chat or an agent, where no workflow runs, it is the conversation's; of a completion the message's; ""
    where a run has ended and nobody has named it. `conversation_id`: of a chatflow, by which a look-up finds its run.
    """

    run_id: str
    task_id: str | None = None
    conversation_id: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """All names under which a look-up may meet it."""
        return (self.run_id,) if self.conversation_id is None else (self.run_id, self.conversation_id)


@dataclass(frozen=True, slots=True)
class FailedNode:
    """The node that a run failed at: its title, its type ("llm", "http-request", ...), its error."""

    title: str
    type: str
    error: str

    def as_dict(self) -> dict[str, str]:
        return {"title": self.title, "type": self.type, "error": self.error}

    @classmethod
    def of(cls, record: object) -> FailedNode | None:
        """From a record of the journal; None for what names no node."""
        if not isinstance(record, Mapping) or not isinstance(record.get("title"), str):
            return None
        kind, error = record.get("type"), record.get("error")
        return cls(record["title"], kind if isinstance(kind, str) else "", error if isinstance(error, str) else "")

    def __str__(self) -> str:
        return f"{self.title} ({self.type})" if self.type else self.title


@dataclass(frozen=True, slots=True)
class RunResult:
    """One run that ended, from whichever of the three places told it (stream, blocking answer, run detail).

    Units: `elapsed_time` seconds, `finished_at` whole seconds since 1970 (None where the server gave none).
    `outputs`: an object; anything else stays as the server gave it.
    `total_price`: what its models cost in `currency`, as exact text; only streams tell it. `prices`: where they cost in
    several currencies, the amount in each, and then no `total_price`.
    `workflow_id`: the version of the workflow that ran. `failed_node`: as streams tell it.
    """

    ref: RunRef
    status: str
    outputs: Any
    error: str | None = None
    elapsed_time: float | None = None
    total_tokens: int | None = None
    total_steps: int | None = None
    finished_at: int | None = None
    total_price: str | None = None
    currency: str | None = None
    workflow_id: str | None = None
    prices: Mapping[str, str] | None = None
    failed_node: FailedNode | None = None


@dataclass(frozen=True, slots=True)
class PausedForm:
    """A form that a paused run waits for (human input). `expires_at`: seconds since 1970."""

    token: str | None
    node: str | None
    content: str | None
    actions: tuple[str, ...]
    inputs: tuple[str, ...]
    expires_at: int | None

    def as_dict(self) -> dict[str, Any]:
        return {
            "form_token": self.token,
            "node": self.node,
            "content": self.content,
            "actions": list(self.actions),
            "inputs": list(self.inputs),
            "expires_at": self.expires_at,
        }


@dataclass(frozen=True, slots=True)
class Succeeded:
    result: RunResult

    @property
    def partial(self) -> bool:
        return self.result.status == "partial-succeeded"


@dataclass(frozen=True, slots=True)
class Paused:
    ref: RunRef
    forms: tuple[PausedForm, ...] = ()


CUT_OFF = "cut_off"
"""The status of a run whose answer looks whole and is not, or was given in its place; what there is stands in its
outputs. No word of Dify's, which has none for it."""

_CODES = {"stopped": "run_stopped", CUT_OFF: CUT_OFF}


@dataclass(frozen=True, slots=True)
class Failed:
    """The run ended without a result. `confirmed` is false where only the wire said `stopped`: run detail decides."""

    result: RunResult
    confirmed: bool = True

    @property
    def code(self) -> str:
        return _CODES.get(self.result.status, "run_failed")

    @property
    def message(self) -> str:
        return self.result.error or f"the run ended as {self.result.status}, without an error text"


OUTPUTS_INVALID = "outputs_invalid"
"""The code of a row whose run succeeded, with outputs that miss --expect."""


@dataclass(frozen=True, slots=True)
class Invalid(Failed):
    """The run succeeded, and its outputs are not as --expect wants them. `misses`: where and how."""

    misses: str = ""

    @property
    def code(self) -> str:
        return OUTPUTS_INVALID

    @property
    def message(self) -> str:
        return self.misses


@dataclass(frozen=True, slots=True)
class Rejected:
    """`foreign`: not Dify said so, but something in front of it (a firewall about this row's text). `left`: a trace of
    it may stand on the server under its user, as a chatflow leaves one."""

    code: str
    message: str
    http_status: int | None = None
    foreign: bool = False
    left: bool = False


@dataclass(frozen=True, slots=True)
class Throttled:
    """`left`: as in Rejected."""

    message: str
    retry_after: float | None = None
    http_status: int | None = None
    left: bool = False


@dataclass(frozen=True, slots=True)
class Unreachable:
    """`charged`: the server was reached and failed at an upload, which uses up one of the row's retries. `foreign`:
    the word of something in front of Dify, which may as well be about this one request."""

    message: str
    charged: bool = False
    foreign: bool = False


@dataclass(frozen=True, slots=True)
class Running:
    """The run is known and its end is not. `reason` says how sight of it was lost; `silent`: its worker's pings
    stopped, though the connection stood; `instead`: what else it may be, where the server cannot tell."""

    ref: RunRef
    reason: str
    silent: bool = False
    instead: str = ""


@dataclass(frozen=True, slots=True)
class Lost:
    """Sent, and no run id came back.

    `server_error` marks a 5xx or a cut: the sign of an outage. `accepted`: the server had opened the event stream, so
    the request is in its queue and may be executed whenever a worker is free [26a5].
    """

    reason: str
    http_status: int | None = None
    server_error: bool = True
    retry_after: float | None = None
    accepted: bool = False


@dataclass(frozen=True, slots=True)
class Fatal:
    """`kind`: "auth", "app" or "quota". `hint`: what to do, where `code` alone does not tell."""

    kind: str
    code: str
    message: str
    http_status: int | None = None
    hint: str | None = None


Outcome: TypeAlias = Succeeded | Paused | Failed | Rejected | Throttled | Unreachable | Running | Lost | Fatal


@dataclass(frozen=True, slots=True)
class SettledRow:
    """What a batch has come to with one row, as `run_batch(on_row=…)` tells it.

    `state`: success, partial-success, paused, or why there is no result: failed, rejected, stopped, unknown, invalid.
    `result` is there with the first two; `code` and `message` with the last five; `node` where a stream told at which
    node the run failed.
    """

    id: str
    state: str
    result: RunResult | None = None
    code: str = ""
    message: str = ""
    node: FailedNode | None = None
