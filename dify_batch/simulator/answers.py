"""Requests read and answers made, with the messages that Dify gives. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from . import wire
from .apps import App
from .config import Config
from .events import pause_reason
from .faults import Fault
from .gateway import gateway_answer, page
from .oddities import json_of, other_run
from .runs import Ending, LogQuery, Run
from .wire import Answer, Refusal

_PYDANTIC = "https://errors.pydantic.dev/2.12/v"
_REPR_LENGTH = 50  # pydantic cuts the middle out of a longer input_value
LOG_STATUSES = ("succeeded", "failed", "stopped")  # no others may be asked for (dify-wire 14l)
OWNER = "admin@example.com"  # the only account; runs made with an app key are never its own (dify-wire 14zb)
MAX_PAGE, MAX_LIMIT = 99999, 100


def validation_error(model: str, name: str, text: str, kind: str, value: object) -> Answer:
    """pydantic's message inside a 400 (dify-wire 05c, 08, 14l)."""
    shown = repr(value)
    if len(shown) > _REPR_LENGTH:
        shown = f"{shown[:25]}...{shown[-24:]}"
    message = (
        f"1 validation error for {model}\n{name}\n  {text} [type={kind}, input_value={shown}, "
        f"input_type={type(value).__name__}]\n    For further information visit {_PYDANTIC}/{kind}"
    )
    return wire.refuse(400, "invalid_param", message)


def run_payload(body: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """(inputs, response mode) of a run request; left out or null the mode is blocking (dify-wire 08b).

    Raises Refusal.
    """
    model = "WorkflowRunPayload"
    if "inputs" not in body:
        raise Refusal(validation_error(model, "inputs", "Field required", "missing", dict(body)))
    inputs, mode = body["inputs"], body.get("response_mode")
    if not isinstance(inputs, dict):
        text = "Input should be a valid dictionary"
        raise Refusal(validation_error(model, "inputs", text, "dict_type", inputs))
    if mode not in (None, "blocking", "streaming"):
        text = "Input should be 'blocking' or 'streaming'"
        raise Refusal(validation_error(model, "response_mode", text, "literal_error", mode))
    return inputs, mode or "blocking"


def check_workflow(app: App, workflow_id: str | None, did_you_mean: str = "") -> None:
    """That there is a published workflow, of that id if one is given (dify-wire 10, 12). Raises Refusal."""
    if workflow_id is not None and not wire.is_uuid(workflow_id):
        message = f"Invalid workflow_id format: '{workflow_id}'. "
        raise Refusal(wire.refuse(400, "bad_request", message))
    if workflow_id is not None and workflow_id != app.workflow_id:
        raise Refusal(wire.refuse(404, "not_found", f"Workflow not found with id: {workflow_id}{did_you_mean}"))
    if not app.published:
        raise Refusal(wire.refuse(400, "invalid_param", "Workflow not published"))


def refused(fault: Fault, app: App, config: Config) -> Answer | None:
    """The answer of a fault that keeps the run from being made; None for every other fault."""
    limit = config.max_active_requests or 1
    match fault.name:
        case "error_500":
            return wire.INTERNAL_500
        case "error_unknown":
            return wire.UNKNOWN_500
        case "error_502":
            return page(502)
        case "error_503":
            return page(503)
        case "throttle_400":
            return wire.too_many(app.id, limit)
        case "throttle_429":
            return throttled(app.id, limit, fault.seconds)
        case "quota":
            message = "Rate limit exceeded, please upgrade your plan or wait until tomorrow."
            return wire.refuse(429, "rate_limit_error", message)
        case "quota_provider":
            message = (
                "Your quota for Dify Hosted OpenAI has been exhausted. Please go to Settings -> Model Provider to "
                "complete your own provider credentials."
            )
            return wire.refuse(400, "provider_quota_exceeded", message)
        case "not_initialized":
            message = (
                "No valid model provider credentials found. Please go to Settings -> Model Provider to complete "
                "your provider credentials."
            )
            return wire.refuse(400, "provider_not_initialize", message)
        case "bad_key":
            return wire.unauthorized()
        case "forbidden":
            return wire.DISABLED
    return gateway_answer(fault.name, fault.seconds)


def throttled(app_id: str, limit: int, seconds: float | None) -> Answer:
    """429; with Retry-After if `seconds` is given."""
    wait = () if seconds is None else (("Retry-After", f"{seconds:g}"),)
    return wire.refuse(429, "too_many_requests", wire.too_many_text(app_id, limit), *wait)


def blocking_answer(run: Run, ending: Ending, strange: bool = False) -> Answer:
    """The answer to a blocking POST (dify-wire 01, 15, 18p)."""
    data: dict[str, Any] = {
        "id": run.id,
        "workflow_id": run.app.workflow_id,
        "status": ending.status,
        "outputs": ending.outputs,
        "error": ending.error,
        "elapsed_time": ending.elapsed,
        "total_tokens": ending.tokens,
        "total_steps": ending.steps,
        "created_at": ending.created_at,
        "finished_at": ending.finished_at,
    }
    if ending.status == "paused" and run.live is not None and run.live.form is not None:
        data["paused_nodes"] = ["human"]
        data["reasons"] = [pause_reason(run.live.form, run.live.form.content)]
    body: dict[str, Any] = {"task_id": run.task_id, "workflow_run_id": run.id, "data": data}
    if strange:
        body = {"brand_new": {"deep": [True]}, **body}
        data["from_the_future"] = None
    if run.oddity == "ids_disagree":
        body["data"]["id"] = other_run(body)["data"]["id"]
    return Answer(200, json_of(run.oddity, body).encode(), wire.JSON_UTF8)


def log_query(params: Mapping[str, str]) -> LogQuery:
    """The filters of GET /v1/workflows/logs; unknown parameters are ignored (dify-wire 14). Raises Refusal."""
    status = params.get("status")
    if status is not None and status not in LOG_STATUSES:
        text = "Input should be 'succeeded', 'failed' or 'stopped'"
        raise Refusal(validation_error("WorkflowLogQuery", "status", text, "literal_error", status))
    account = params.get("created_by_account")
    if account and account != OWNER:
        raise Refusal(wire.refuse(400, "invalid_param", f"Account not found: {account}"))
    return LogQuery(
        page=bounded(params, "page", 1, MAX_PAGE),
        limit=bounded(params, "limit", 20, MAX_LIMIT),
        user=params.get("created_by_end_user_session_id") or None,
        status=status,
        keyword=params.get("keyword") or None,
        after=_moment(params.get("created_at__after")),
        before=_moment(params.get("created_at__before")),
        account=account or None,
    )


def bounded(params: Mapping[str, str], name: str, default: int, most: int, model: str = "WorkflowLogQuery") -> int:
    """A whole number of a query, from 1 to `most`. Raises Refusal."""
    text = params.get(name)
    if text is None:
        return default
    try:
        number = int(text)
    except ValueError:
        wrong, kind = "Input should be a valid integer, unable to parse string as an integer", "int_parsing"
    else:
        if 1 <= number <= most:
            return number
        if number < 1:
            wrong, kind = "Input should be greater than or equal to 1", "greater_than_equal"
        else:
            wrong, kind = f"Input should be less than or equal to {most}", "less_than_equal"
    raise Refusal(validation_error(model, name, wrong, kind, text))


def _moment(text: str | None) -> float | None:
    """ISO 8601 -> seconds since 1970; without a zone it is UTC (dify-wire 14q-14u)."""
    if not text:
        return None
    try:
        if text.isdigit():
            raise ValueError("ISO time too short")
        if " " in text:  # a `+` that was not escaped
            raise ValueError("Unused components in ISO string")
        if not text[:4].isdigit():
            raise ValueError(f"invalid literal for int() with base 10: {text[:4].encode()!r}")
        moment = datetime.fromisoformat(text)
    except ValueError as e:
        raise Refusal(wire.refuse(400, "invalid_param", str(e))) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
