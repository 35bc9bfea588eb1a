"""One attempt for one row: upload, intent, POST, and what is told to the ledger and to the pace."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from dify_batch.engine.work import Item, Slot
from dify_batch.errors import AppError, AuthError, ConnectionFailed, DifyBatchError, RateLimited, ServerError
from dify_batch.input.files import Inputs, find_local, with_uploads
from dify_batch.outcomes import (
    Failed,
    Fatal,
    Lost,
    Outcome,
    Paused,
    Rejected,
    Running,
    RunRef,
    Succeeded,
    Throttled,
    Unreachable,
)

if TYPE_CHECKING:
    from dify_batch.engine.runner import Engine

log = logging.getLogger("dify_batch")


def ref_of(outcome: Outcome) -> RunRef | None:
    """The run that an outcome names."""
    match outcome:
        case Succeeded(result=result) | Failed(result=result):
            return result.ref
        case Paused(ref=ref) | Running(ref=ref):
            return ref
        case _:
            return None


# What is no answer of Dify's: none at all, and a proxy that has waited in vain.
_NO_ANSWER = (None, 200, 408, 504, 524)
# Dify answers a longer `user` with 500 [07f].
_LONGEST_USER = 255


def unusable(user: str) -> str | None:
    """Why a `user` made from a row's cells cannot be sent; None if it can."""
    if not user.strip():
        return "the --user made from this row is empty"
    if len(user) > _LONGEST_USER:
        return f"the --user made from this row has {len(user)} characters; Dify takes {_LONGEST_USER}"
    if "\0" in user:
        return "the --user made from this row has a NUL character"
    return None


async def upload_files(engine: Engine, item: Item, user: str) -> Inputs | Outcome:
    """Uploads the row's local files with the run's own user. Harmless, so it may be done again at will."""
    assert item.inputs is not None
    ids = {}
    for file in find_local(item.inputs.values, item.inputs.files):
        try:
            ids[file] = await engine.client.upload(file.path, user=user, mime=file.mime_type)
        except ConnectionFailed as error:
            return Unreachable(error.message)
        except RateLimited as error:
            return Throttled(error.message)
        except AuthError as error:
            return Fatal("auth", error.code, error.message)
        except AppError as error:
            return Rejected("upload_refused", f"{file.path}: {error.message}")
        except ServerError as error:
            return Unreachable(f"the upload of {file.path} failed: {error.message}")
        except OSError as error:
            return Rejected("file_unreadable", f"{file.path}: {error.strerror or error}")
        except DifyBatchError as error:
            return Rejected("upload_refused", f"{file.path}: {error.message}")
    return with_uploads(item.inputs, ids)


async def attempt(engine: Engine, item: Item, *, goes_first: bool) -> Outcome | None:
    """Sends a row once. On return the ledger knows all that the outcome says about a run existing or not.

    None where the batch stopped before it was sent.

    Raises:
        StorageError: the intent could not be written; nothing was sent.
    """
    assert item.inputs is not None
    settings, ledger, outage = engine.settings, engine.ledger, engine.outage
    slot = engine.slots.take()
    user = engine.slots.user(slot, item.cells)
    outcome: Outcome | None = None
    try:
        inputs = item.inputs
        if refused := unusable(user):
            outcome = Rejected("invalid_user", refused)
            if goes_first:
                outage.not_gone()
            return outcome
        if inputs.has_local:
            uploaded = await upload_files(engine, item, user)
            if not isinstance(uploaded, Inputs):
                outcome = uploaded
                _tell_pace(engine, item, outcome, 0.0, goes_first)
                return outcome
            inputs = item.sent = uploaded
        await ledger.sent(item.id, user=user, mode=settings.mode)
        if engine.pool.gate.spaced and (delay := engine.pool.gate.claim()) > 0:
            await engine.stopping.sleep(delay)
            if not engine.may_send(item):
                ledger.unsent(item.id, "the batch stopped before it was sent")
                return None
        item.user, item.mode, item.sent_at = user, settings.mode, time.time()
        item.ref, item.recovered, item.from_before, item.failure = None, False, False, None
        log.debug("sent as %s", user, extra={"row": item.id})
        engine.stats.posts += 1
        began = item.posted_at = time.monotonic()
        started_after: float | None = None

        def remember(ref: RunRef) -> None:
            slot.runs.append(ref.run_id)
            if user != slot.user:
                engine.recovery.claim(ref.run_id)

        def on_started(ref: RunRef) -> None:
            nonlocal started_after
            started_after = time.monotonic() - began
            item.ref, item.started_at = ref, time.time()
            remember(ref)
            ledger.started(item.id, ref)
            engine.saw_start(started_after, began)
            engine.served(began)

        outcome = await engine.client.run(
            inputs.values,
            user=user,
            mode=settings.mode,
            files=inputs.files,
            timeout=settings.timeout,
            on_started=on_started,
        )
        seconds = time.monotonic() - began
        ref = ref_of(outcome)
        if ref is not None and started_after is None:
            item.ref, item.started_at = ref, item.sent_at
            remember(ref)
            # Before the next intent of this slot: its user must not lead to a run that no row seems to have.
            ledger.started(item.id, ref)
        if started_after is None and isinstance(outcome, Succeeded | Failed):
            # What a blocking answer took beyond the run itself, it waited for a connection slot.
            engine.saw_start(max(0.0, seconds - (outcome.result.elapsed_time or 0.0)), began)
        _note(engine, item, outcome, slot, seconds)
        _tell_pace(engine, item, outcome, seconds, goes_first)
        return outcome
    finally:
        engine.slots.give(slot, lost=outcome is None or isinstance(outcome, Lost))
        if outcome is None and goes_first:
            outage.not_gone()


def _note(engine: Engine, item: Item, outcome: Outcome, slot: Slot, seconds: float) -> None:
    """Closes the intent where it is certain that no run was made."""
    match outcome:
        case Unreachable(message=message):
            engine.stats.posts -= 1
            engine.ledger.unsent(item.id, message)
        case Throttled(message=message) | Fatal(message=message):
            engine.ledger.refused(item.id, message)
        case Lost(reason=reason):
            item.lost_at, item.reason, item.known_runs = time.monotonic(), reason, frozenset(slot.runs)
            # An error answer says nothing of a queue; silence, or a proxy's word for it, that it is at least so long.
            unanswered = outcome.http_status in _NO_ANSWER
            item.waited = seconds if unanswered else 0.0
            item.queued = outcome.accepted or (unanswered and seconds >= 0.9 * engine.settings.timeout)
            engine.lost_together.add(item.id)
            item.lost_with = engine.lost_together
            engine.ledger.lost(item.id, reason)
        case _:
            pass


def _tell_pace(engine: Engine, item: Item, outcome: Outcome, seconds: float, goes_first: bool) -> None:
    """Tells the shared outage and the limit what the attempt says about the server."""
    outage, limit = engine.outage, engine.limit
    match outcome:
        case Unreachable(message=message):
            outage.begin(message)
        case Throttled(message=message, retry_after=retry_after):
            limit.throttled(engine.pool.in_flight)
            pause = retry_after or 0.0
            # With others in flight the limit falls and they go on; alone, or asked to by the server, all wait.
            if engine.pool.in_flight <= 1 or goes_first or pause > engine.settings.max_retry_delay:
                outage.begin(message, throttled=True, pause=pause)
        case Lost(server_error=True, reason=reason, retry_after=retry_after):
            outage.begin(reason, pause=retry_after or 0.0)
        case Lost() | Fatal() | Running():
            if goes_first:
                outage.answered()
        case _:
            limit.finished(seconds, engine.pool.in_flight)
            engine.served(item.posted_at)
