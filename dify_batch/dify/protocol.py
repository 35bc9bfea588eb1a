"""Dify's answers and events, turned into outcomes. Pure: no network, no clock.

Facts come from recorded exchanges of a Dify 1.14.2 server; the numbers in brackets name them.
Three readers, one for each place that tells how a run went:

    answer_outcome(...)   the answer to a blocking POST, or an error answer to any POST
    Events                the events of a stream, one at a time
    detail_outcome(...)   run detail, the server's own record
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dify_batch.outcomes import (
    Failed,
    Fatal,
    Lost,
    Outcome,
    Paused,
    PausedForm,
    Rejected,
    Running,
    RunRef,
    RunResult,
    Succeeded,
    Throttled,
    Unreachable,
)
from dify_batch.strictjson import json_object

SUCCESS = frozenset({"succeeded", "partial-succeeded"})

# Codes that say: this app cannot run a batch, whatever the row. [11, 19c, 21j] and Dify's error classes.
_APP_CODES = frozenset(
    {
        "not_workflow_app",
        "app_unavailable",
        "provider_not_initialize",
        "model_currently_not_support",
        "forbidden",
    }
)
_QUOTA_CODES = frozenset({"provider_quota_exceeded", "rate_limit_error"})

# Texts of refusals that Dify gives for one row's inputs [05, 06, 20]. Each was answered without a run.
_INPUT_REFUSALS = re.compile(
    r"^(\(type '[\w-]+'\) )?\S+ (is required )?in input form\b|^Invalid upload file|^expected value type "
    r"|^Reached maximum retries \(\d+\) for URL"
    r"|^\d+ validation errors? for |^Arg user must be provided|^Detected file type does not match"
    r"|^\w+ is required in file mapping|^A string literal cannot contain NUL"
)
# Refused before a run is made: too large, no JSON, not to be processed [09d, 20k].
_REFUSALS = frozenset({413, 415, 422})
# Dify's ids. An event of a kind that is not known yet may bear anything under the same name.
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_NOT_PUBLISHED = re.compile(r"^Workflow not published", re.IGNORECASE)
_TOO_MANY = re.compile(r"^Too many requests", re.IGNORECASE)


def _text(value: Any, fallback: str = "") -> str:
    return value if isinstance(value, str) else fallback if value is None else str(value)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if isinstance(value, int) or math.isfinite(value) else None


def _whole(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else int(number)


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def error_body(body: bytes) -> tuple[str, str]:
    """The (code, message) of an error answer; ("", first line) where the body is not Dify's JSON (a proxy's HTML)."""
    parsed = json_object(body)
    if parsed is not None:
        return _text(parsed.get("code")), _text(parsed.get("message"))
    text = re.sub(r"<[^>]*>", " ", body[:2000].decode("utf-8", "replace"))
    return "", " ".join(text.split())[:200]


def run_result(data: Mapping[str, Any], ref: RunRef) -> RunResult:
    """A RunResult from `data` of workflow_finished, of a blocking answer, or from a whole run detail."""
    outputs = data.get("outputs")
    error = data.get("error")
    return RunResult(
        ref=ref,
        status=_text(data.get("status")),
        outputs=outputs if isinstance(outputs, dict) else {},
        error=None if error is None else _text(error),
        elapsed_time=_number(data.get("elapsed_time")),
        total_tokens=_whole(data.get("total_tokens")),
        total_steps=_whole(data.get("total_steps")),
        finished_at=_whole(data.get("finished_at")),
        workflow_id=_text(data.get("workflow_id")) or None,
    )


def forms_of(data: Mapping[str, Any]) -> tuple[PausedForm, ...]:
    """The forms in `reasons` of a paused answer or of workflow_paused [18, 18p]."""
    return tuple(
        _form(reason)
        for reason in _items(data.get("reasons"))
        if isinstance(reason, dict) and reason.get("TYPE", "human_input_required") == "human_input_required"
    )


def _form(data: Mapping[str, Any]) -> PausedForm:
    actions = [a for a in _items(data.get("actions")) if isinstance(a, dict)]
    inputs = [i for i in _items(data.get("inputs")) if isinstance(i, dict)]
    token = data.get("form_token")
    return PausedForm(
        token=None if token is None else _text(token),
        node=_text(data.get("node_title") or data.get("node_id")) or None,
        content=_text(data.get("form_content")) or None,
        actions=tuple(_text(a.get("id")) for a in actions),
        inputs=tuple(_text(i.get("output_variable_name")) for i in inputs),
        expires_at=_whole(data.get("expiration_time")),
    )


def ended(data: Mapping[str, Any], ref: RunRef, *, final: bool) -> Outcome:
    """The outcome of a run whose status is told. `final` is true for run detail.

    `stopped` on the wire is not final: past APP_MAX_EXECUTION_TIME the wire says stopped while the run goes on
    and succeeds [30d to 30g].
    """
    status = _text(data.get("status"))
    if status in SUCCESS:
        return Succeeded(run_result(data, ref))
    if status == "paused":
        return Paused(ref, forms_of(data))
    if status == "failed":
        return Failed(run_result(data, ref))
    if status == "stopped":
        return Failed(run_result(data, ref), confirmed=final)
    return Running(ref, f"the server says {status or 'nothing'} of it")


def answer_outcome(
    http_status: int, headers: Mapping[str, str], body: bytes, *, retry_after: float | None = None
) -> Outcome:
    """The outcome of a whole (not streamed) answer to a POST that runs a workflow."""
    if 200 <= http_status < 300:
        parsed = json_object(body)
        if parsed is None or not isinstance(parsed.get("data"), dict):
            return Lost("the answer is not a workflow's (is DIFY_API_BASE_URL right?)", http_status)
        data = parsed["data"]
        run_id = _text(parsed.get("workflow_run_id") or data.get("id"))
        if not run_id:
            return Lost("the answer bears no run id", http_status)
        return ended(data, RunRef(run_id, _text(parsed.get("task_id")) or None), final=False)
    code, message = error_body(body)
    if 300 <= http_status < 400:
        message = headers.get("location", "")
    return refusal(http_status, code, message, retry_after=retry_after)


def refusal(http_status: int, code: str, message: str, *, retry_after: float | None = None) -> Outcome:
    """The outcome of an error answer, by HTTP status, Dify's `code` and its message."""
    shown = message or code or f"HTTP {http_status}"
    if http_status == 401:
        return Fatal("auth", code or "unauthorized", shown, http_status)
    if code in _QUOTA_CODES:
        return Fatal("quota", code, shown, http_status)
    if code in _APP_CODES or http_status == 403:
        return Fatal("app", code or "forbidden", shown, http_status)
    if http_status == 429 or (http_status == 400 and _TOO_MANY.match(message)):
        return Throttled(shown, retry_after, http_status)
    if http_status >= 500:
        return Lost(f"HTTP {http_status}: {shown}", http_status, True, retry_after)
    if http_status == 400:
        if _NOT_PUBLISHED.match(message):
            return Fatal("app", "not_published", shown, http_status)
        if code == "bad_request":
            if message.startswith("Invalid workflow_id format"):
                return Fatal("app", code, shown, http_status)
            return Rejected(code, shown, http_status)  # malformed JSON: refused before anything else [09, 22d]
        if _INPUT_REFUSALS.search(message):
            return Rejected(code or "invalid_param", shown, http_status)
        # A blocking POST can answer 400 after the run has begun, so an unknown text or code is looked up first.
        return Lost(f"HTTP 400: {shown}", http_status, False)
    if http_status in (404, 405):
        # No row's fault: an unknown workflow id [12b], or a base URL that is not Dify's [21].
        return Fatal("app", code or "not_found", shown, http_status)
    if 300 <= http_status < 400:
        target = f" to {message}" if message else ""  # never followed: a redirected POST is a second POST
        return Fatal("app", "redirect", f"HTTP {http_status}: the base URL redirects{target}", http_status)
    if http_status in _REFUSALS:
        return Rejected(code or f"http_{http_status}", shown, http_status)
    return Lost(f"HTTP {http_status}: {shown}", http_status, False)  # such as 408 from a proxy: it says nothing


def event_refusal(message: str) -> Outcome:
    """An `error` event before workflow_started. No run was seen to be made then [05b, 05k].

    The event has no code and its status is 500 even for a bad input, so the text alone tells row, app and server apart.
    An unknown text may be a server in trouble as well as a bad input: Lost, so that it is looked up and tried again.
    """
    if _NOT_PUBLISHED.match(message):
        return Fatal("app", "not_published", message, 200)
    if _TOO_MANY.match(message):
        return Throttled(message, None, 200)
    if _INPUT_REFUSALS.search(message):
        return Rejected("invalid_param", message, 200)
    if "quota" in message.lower() and "exceeded" in message.lower():
        return Fatal("quota", "provider_quota_exceeded", message, 200)
    return Lost(f"an error event before the start: {message or 'without a message'}", 200, False)


@dataclass(slots=True)
class Events:
    """Follows the events of one run's stream.

    `feed` takes one event (the parsed JSON of its data) and gives an outcome as soon as there is one.
    `end` tells what it came to when the stream ended, broke or fell silent without one.
    """

    ref: RunRef | None = None
    forms: tuple[PausedForm, ...] = ()
    accepted: bool = False

    def feed(self, event: Mapping[str, Any]) -> Outcome | None:
        name = event.get("event")
        data = event.get("data")
        if name == "error":
            message = _text(event.get("message"))
            if self.ref is None:
                return event_refusal(message)
            return Running(self.ref, f"an error event after the start: {message}")
        if not isinstance(data, dict):
            return None
        if self.ref is None:
            run_id = _text(event.get("workflow_run_id") or (data.get("id") if name == "workflow_started" else None))
            if run_id and (name == "workflow_started" or _UUID.fullmatch(run_id)):
                self.ref = RunRef(run_id, _text(event.get("task_id")) or None)
        if self.ref is None:
            return None
        if name == "workflow_finished":
            return ended(data, self.ref, final=False)
        if name == "human_input_required":
            form = _form(data)
            if form.token not in {known.token for known in self.forms}:
                self.forms += (form,)
        elif name == "workflow_paused":
            return Paused(self.ref, forms_of(data) or self.forms)
        return None

    def end(self, reason: str) -> Running | Lost:
        if self.ref is not None:
            return Running(self.ref, reason)
        return Lost(reason, accepted=self.accepted)


def detail_outcome(http_status: int, body: bytes, ref: RunRef) -> Outcome | None:
    """The outcome told by run detail (`GET /workflows/run/{id}`); None where the server does not know the run
    (404 [13d]). `Unreachable` means that nothing was learnt: ask again.
    """
    if 200 <= http_status < 300:
        data = json_object(body)
        if data is None or "status" not in data:
            return Unreachable("run detail could not be read")
        return ended(data, ref, final=True)
    code, message = error_body(body)
    if http_status == 404 and code == "not_found":
        return None
    if http_status == 401 or http_status == 403:
        return refusal(http_status, code, message)
    return Unreachable(f"run detail answers HTTP {http_status}")


def follow_outcome(http_status: int, body: bytes, ref: RunRef) -> Outcome:
    """The outcome of an answer to `GET /workflow/{id}/events` that is no stream.

    404 is given for another user's run too [24f], so it says nothing of the run: Running, and run detail decides.
    """
    code, message = error_body(body)
    if http_status == 401 or http_status == 403:
        return refusal(http_status, code, message)
    if http_status == 404:
        return Running(ref, "the server has no events of it (HTTP 404)")
    return Unreachable(f"the run's events: HTTP {http_status}: {message or code or 'no stream'}")


def same_inputs(sent: Mapping[str, Any], recorded: str | None) -> bool:
    """Whether the `inputs` of run detail (JSON text with Dify's `sys.` keys and coerced types) are those of a row.

    Only names that both sides know are compared: Dify drops unknown names [06n], and gives null for what was left out.
    """
    theirs = json_object(recorded or "")
    if theirs is None:
        return False
    common = [name for name in sent if name in theirs and not name.startswith("sys.")]
    if not common:
        return False
    for name in theirs:
        if name.startswith("sys.") or name in sent:
            continue
        if theirs[name] not in (None, "", [], {}):
            return False
    return all(_alike(sent[name], theirs[name]) for name in common)


def contradicts(sent: Mapping[str, Any], recorded: str | None) -> bool:
    """Whether a text of the row differs from what the run was given, so that the run cannot be the row's.

    Only texts are compared, and only where both sides have one: they are what Dify keeps as it is.
    """
    theirs = json_object(recorded or "")
    if theirs is None:
        return False
    return any(
        isinstance(ours, str) and isinstance(theirs.get(name), str) and not _alike(ours, theirs[name])
        for name, ours in sent.items()
        if not name.startswith("sys.")
    )


def _alike(ours: Any, theirs: Any) -> bool:
    if ours == theirs or not (ours is None or isinstance(ours, str | bool | int | float | list | dict)):
        return True  # a file that is uploaded anew for each attempt says nothing
    if isinstance(ours, str):
        if isinstance(theirs, bool):
            return ours.strip().lower() == str(theirs).lower()
        if isinstance(theirs, (int, float)):
            try:
                return float(ours) == float(theirs)
            except ValueError:
                return False
        if isinstance(theirs, str):
            return ours.replace("\0", "") == theirs  # NUL is removed silently [22b]
        return theirs is None and ours == ""
    if isinstance(ours, (int, float)) and isinstance(theirs, float) and not isinstance(ours, bool):
        try:
            return float(ours) == theirs  # integers over 64 bit come back as floats [06i]
        except OverflowError:
            return False
    if isinstance(ours, dict) and isinstance(theirs, dict) and "transfer_method" in ours:
        name, recorded = ("url", "remote_url") if "url" in ours else ("upload_file_id", "related_id")
        return ours.get(name) is not None and theirs.get(recorded) == ours.get(name)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(_alike, ours, theirs))
    return False
