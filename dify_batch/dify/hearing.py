"""Where a server's words enter: each text in an outcome or error is masked, cut, and made one line if it is a reason.

Everything that the client gives passes here, so that no key that a server quotes back reaches journal, `.paused`,
results, status or machine output. Outputs are no words: they stay as they came. Pure.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from dify_batch.dify.answers import Detail, LogEntry
from dify_batch.errors import DifyBatchError
from dify_batch.masking import LONGEST_REASON, heard, mask_all, reason
from dify_batch.outcomes import (
    Failed,
    FailedNode,
    Fatal,
    Lost,
    Outcome,
    Paused,
    PausedForm,
    Rejected,
    Running,
    RunResult,
    Succeeded,
    Throttled,
    Unreachable,
)

E = TypeVar("E", bound=DifyBatchError)

_WIDE = 2 * LONGEST_REASON
"""Characters of an error of an endpoint: it names the request as well."""


def outcome_heard(outcome: Outcome, key: str) -> Outcome:
    """The outcome with all its words masked and cut."""
    match outcome:
        case Succeeded(result=result) | Failed(result=result):
            clean = _result(result, key)
            return outcome if clean is result else replace(outcome, result=clean)
        case Paused(forms=forms):
            return replace(outcome, forms=tuple(_form(form, key) for form in forms)) if forms else outcome
        case Rejected() | Throttled() | Unreachable():
            return replace(outcome, message=reason(outcome.message, key))
        case Fatal():
            return replace(outcome, message=reason(outcome.message, key), code=reason(outcome.code, key))
        case Running() | Lost():
            return replace(outcome, reason=reason(outcome.reason, key))


def _result(result: RunResult, key: str) -> RunResult:
    if result.error is None and result.failed_node is None:
        return result
    node = result.failed_node
    if node is not None:
        node = FailedNode(reason(node.title, key), reason(node.type, key), heard(node.error, key))
    error = None if result.error is None else heard(result.error, key)
    return replace(result, error=error, failed_node=node, status=reason(result.status, key))


def _form(form: PausedForm, key: str) -> PausedForm:
    node = None if form.node is None else reason(form.node, key)
    return replace(form, node=node, content=None if form.content is None else heard(form.content, key))


def detail_heard(detail: Detail, key: str) -> Detail:
    return detail if detail.outcome is None else replace(detail, outcome=outcome_heard(detail.outcome, key))


def entry_heard(entry: LogEntry, key: str) -> LogEntry:
    return entry if entry.error is None else replace(entry, error=heard(entry.error, key))


def error_heard(error: E, key: str) -> E:
    """The same error, its words masked and cut."""
    error.message = reason(error.message, key, _WIDE)
    error.args = (error.message,)
    error.details = mask_all(error.details, key)
    return error
