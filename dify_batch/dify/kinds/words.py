"""What a refusal means to an app that talks: what was executed and failed, told apart from what never ran. Pure.

A model's error comes as HTTP 400, like a refused input, and without any id. Facts come from recorded exchanges of a
Dify 1.14.2 server; the numbers in brackets name them.
"""

from __future__ import annotations

from dify_batch.dify.kinds.kind import Kind
from dify_batch.dify.word import Word, refusal
from dify_batch.outcomes import Failed, Fatal, Outcome, Rejected, RunRef, RunResult, Throttled

_RUN_FAILED = "Run failed:"  # of a chatflow that was asked for a blocking answer [31k-1, 31s]
_BROKE = "Request to Plugin Daemon Service failed"  # the model's connection, in the middle of an answer [32ai, 33ai]
_NO_MODEL = "Failed to request plugin daemon"  # it was not reached, and nothing was made [32ai]
_ONLY_STREAMS = "Agent Chat App does not support blocking mode"  # [34a]
_WRONG_KIND = frozenset({"not_chat_app", "not_completion_app", "not_workflow_app"})
UNNAMED = RunRef("")
"""A run that has ended, and that nobody has named."""


def failed(ref: RunRef, error: str) -> Failed:
    """Executed, at least in part paid, and ended without a result."""
    return Failed(RunResult(ref, "failed", {}, error=error))


def kind_refusal(kind: Kind, word: Word, *, retry_after: float | None, first: bool) -> Outcome:
    """The outcome of an answer to its POST that is no result."""
    if word.dify and word.http_status == 400:
        if word.code == "completion_request_error" or word.message.startswith((_RUN_FAILED, _BROKE)):
            return failed(UNNAMED, word.shown)
        if word.message.startswith(_NO_MODEL):
            return Throttled(word.shown, retry_after, word.http_status)
        if word.message.startswith(_ONLY_STREAMS):
            return Fatal("app", word.code, word.shown, 400, "this app is an agent: add --app-kind agent")
        if word.message.startswith("query is required"):
            return Rejected(word.code, word.shown, 400)
        if word.code in _WRONG_KIND:
            hint = f"the app is no {kind.name}: leave --app-kind out, or name the kind that its page in Dify shows"
            return Fatal("app", word.code, word.shown, 400, hint)
    return refusal(word, retry_after=retry_after, first=first)
