"""What a run came to: values out of the three places that tell them (stream, blocking answer, run detail). Pure.

Whatever a server sends in a field, none of these raises: what cannot be read is left out, or kept as it came.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from dify_batch.masking import LONGEST
from dify_batch.outcomes import Failed, Outcome, Paused, PausedForm, Running, RunRef, RunResult, Succeeded
from dify_batch.strictjson import json_object

SUCCESS = frozenset({"succeeded", "partial-succeeded"})
_GOES_ON = frozenset({"", "running", "queued", "pending", "scheduled"})
_STOPPED = "stopped"

_LAST_TIME = 253_402_300_800  # the year 10000: no calendar has it
_LATEST_SECONDS = 1 << 36  # the year 4147 in seconds; what is larger counts thousandths, millionths or less
_LARGEST = 1 << 63  # no count or duration is larger


def text(value: Any, fallback: str = "") -> str:
    """A text, of which no more is kept than anybody reads."""
    if isinstance(value, str):
        return value[:LONGEST]
    if value is None:
        return fallback
    try:
        return str(value)[:LONGEST]
    except ValueError:  # an integer of more than 4300 digits
        return fallback


def number(value: Any) -> float | None:
    """A finite number from 0 on, of a size that something can have."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if 0 <= value < _LARGEST and (isinstance(value, int) or math.isfinite(value)) else None


def whole(value: Any) -> int | None:
    """A count."""
    found = number(value)
    return None if found is None else int(found)


def seconds(value: Any) -> int | None:
    """A moment as whole seconds since 1970: Dify gives that [14]; others were seen to give milliseconds and less, or
    a text. None for what is no moment of our calendar."""
    if isinstance(value, str):
        return _of_text(value.strip())
    found = number(value)
    if found is None:
        return None
    while found >= _LATEST_SECONDS:
        found /= 1000
    return int(found) if 0 < found < _LAST_TIME else None


def _of_text(value: str) -> int | None:
    if len(value) > 40:
        return None
    try:
        return seconds(float(value))
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(value)
        stamp = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
    return int(stamp) if 0 < stamp < _LAST_TIME else None


def items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def outputs_of(value: Any) -> Any:
    """A run's outputs as they came; text that holds an object is parsed: run detail of Dify up to about 1.11 gives
    them as text. Never {} in place of a value."""
    if value is None:
        return {}
    if isinstance(value, str):
        parsed = json_object(value)
        return value if parsed is None else parsed
    return value


def run_result(data: Mapping[str, Any], ref: RunRef) -> RunResult:
    """A RunResult from `data` of workflow_finished, of a blocking answer, or from a whole run detail."""
    error = data.get("error")
    return RunResult(
        ref=ref,
        status=text(data.get("status")),
        outputs=outputs_of(data.get("outputs")),
        error=None if error is None else text(error),
        elapsed_time=number(data.get("elapsed_time")),
        total_tokens=whole(data.get("total_tokens")),
        total_steps=whole(data.get("total_steps")),
        finished_at=seconds(data.get("finished_at")),
        workflow_id=text(data.get("workflow_id")) or None,
    )


def forms_of(data: Mapping[str, Any]) -> tuple[PausedForm, ...]:
    """The forms in `reasons` of a paused answer or of workflow_paused [18, 18p]."""
    return tuple(
        form_of(reason)
        for reason in items(data.get("reasons"))
        if isinstance(reason, dict) and reason.get("TYPE", "human_input_required") == "human_input_required"
    )


def form_of(data: Mapping[str, Any]) -> PausedForm:
    """One form, out of a reason or of human_input_required."""
    actions = [a for a in items(data.get("actions")) if isinstance(a, dict)]
    inputs = [i for i in items(data.get("inputs")) if isinstance(i, dict)]
    token = data.get("form_token")
    return PausedForm(
        token=None if token is None else text(token),
        node=text(data.get("node_title") or data.get("node_id")) or None,
        content=text(data.get("form_content")) or None,
        actions=tuple(text(a.get("id")) for a in actions),
        inputs=tuple(text(i.get("output_variable_name")) for i in inputs),
        expires_at=seconds(data.get("expiration_time")),
    )


def ended(data: Mapping[str, Any], ref: RunRef, *, final: bool, over: bool = False) -> Outcome:
    """The outcome of a run whose status is told. `final` is true for run detail, `over` for workflow_finished.

    A run has ended when workflow_finished or `finished_at` says so, whatever its status word; a word that is not known
    is kept and counts as failed. `stopped` on the wire is not final: past APP_MAX_EXECUTION_TIME the wire says stopped
    while the run goes on and succeeds [30d to 30g].
    """
    status = text(data.get("status"))
    if status in SUCCESS:
        return Succeeded(run_result(data, ref))
    if status == "paused":
        return Paused(ref, forms_of(data))
    if status == "failed":
        return Failed(run_result(data, ref))
    if status == _STOPPED:
        return Failed(run_result(data, ref), confirmed=final)
    if over or seconds(data.get("finished_at")) is not None:
        # "running" in a run that has ended is odd enough to ask for its detail.
        return Failed(run_result(data, ref), confirmed=final or status not in _GOES_ON)
    return Running(ref, f"the server says {status or 'nothing'} of it")
