"""An app of the account surface as the engine's `Surface`: a batch with a sign-in in place of an app key.

What the surface cannot tell stays unknown, and is never sent again by itself: there is no `user`, and on A and B no
log. Lost requests are looked up with an app key of the same app where there is one, else, on C, among the app's runs
(those of this account, told apart by their inputs); else not at all. The numbers in brackets name recorded exchanges.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from dify_batch.dify import http
from dify_batch.dify.account.app_runs import AppRuns
from dify_batch.dify.account.client import AccountClient, RunAsk
from dify_batch.dify.account.shapes import PREFIX, TALKS
from dify_batch.dify.account.talk import Talk
from dify_batch.dify.answers import Detail, Ended, LogPage, upload_outcome
from dify_batch.dify.breaks import silent
from dify_batch.dify.client import DifyClient
from dify_batch.dify.failures import Broken
from dify_batch.dify.protocol import Events
from dify_batch.dify.results import ended
from dify_batch.dify.sse import EventStream
from dify_batch.dify.transport import drop, pieces
from dify_batch.dify.word import Word, refusal
from dify_batch.errors import AppError, AuthError, ConnectionFailed, DifyBatchError, RateLimited, UsageError
from dify_batch.outcomes import (
    Failed,
    Fatal,
    Lost,
    Outcome,
    Rejected,
    Running,
    RunRef,
    Throttled,
    Unreachable,
)
from dify_batch.seams import Seams

SILENCE = 30.0
"""Seconds without a byte after which a run that has begun wants looking up: its worker pings every 10 s [02b]."""

_LOOK = 3.0
"""Seconds after which a run whose events have told no end goes on: an ended one tells it at once [27j]."""

_QUERY = {"label": "Message", "type": "paragraph", "required": True}


class BatchClient:
    """One app.

    Args:
        account: the e-mail address of the sign-in: whose runs a look-up may take.
        app: `describe` of the app: info and parameters.
        message: the input that is the message of a chat.
        by_key: a client with a key of the same app, for look-ups.
    """

    def __init__(
        self,
        client: AccountClient,
        app_id: str,
        account: str,
        app: Mapping[str, Any],
        seams: Seams,
        *,
        by_key: DifyClient | None = None,
        workflow_id: str | None = None,
        workspace_id: str | None = None,
        external: bool = False,
        message: str = "query",
    ) -> None:
        self._client = client
        self._app_id = app_id
        self._account = account
        self._app = app
        self._threads = seams.threads
        self._runs = AppRuns(client, app_id, self.mode, account, seams.clock)
        self._by_key = by_key
        self._workflow_id = workflow_id
        self._workspace_id = workspace_id
        self._external = external
        self._message = message
        self.server_version: str | None = None

    @property
    def base_url(self) -> str:
        return self._client.host + PREFIX

    @property
    def mode(self) -> str:
        """The kind of app."""
        return str(self._info.get("mode") or "workflow")

    @property
    def _info(self) -> Mapping[str, Any]:
        info = self._app.get("info")
        return info if isinstance(info, dict) else {}

    @property
    def clock_offset(self) -> float:
        return self._client.clock_offset or 0.0

    @property
    def server_time_known(self) -> bool:
        return self._client.clock_offset is not None

    async def parameters(self) -> dict[str, Any]:
        """The app's form, as GET /parameters of the service API gives it; a chat's has the message as well."""
        found = self._app.get("parameters")
        parameters = dict(found) if isinstance(found, dict) else {}
        if self.mode in TALKS:
            form = [entry for entry in parameters.get("user_input_form") or () if _variable(entry) != self._message]
            parameters["user_input_form"] = [{"paragraph": _QUERY | {"variable": self._message}}, *form]
        return parameters

    async def info(self) -> dict[str, Any]:
        return dict(self._info)

    # ---------------------------------------------------------------- runs

    async def run(
        self,
        inputs: Mapping[str, Any],
        *,
        user: str,
        mode: Literal["streaming", "blocking"],
        files: Sequence[Mapping[str, Any]] | None = None,
        timeout: float,
        on_started: Callable[[RunRef], None] | None = None,
        trace_id: str | None = None,
    ) -> Outcome:
        """One attempt, always a stream; `user` and `mode` are not the surface's, and it reads no trace header. A row of
        a chat is a conversation of its own, whose message is the input that `message` names."""
        given = dict(inputs)
        query = str(given.pop(self._message)) if self.mode in TALKS and given.get(self._message) is not None else None
        if files is not None:
            return Rejected("files_not_supported", "the account surface takes files as inputs of the form only")
        ask = RunAsk(
            self._app_id,
            self.mode,
            given,
            query,
            workflow_id=self._workflow_id,
            workspace_id=self._workspace_id,
            external=self._external,
        )
        reader = Talk(self.mode)
        try:
            async with asyncio.timeout(timeout):
                try:
                    response = await self._client.run(ask)
                except DifyBatchError as error:
                    return outcome_of(error)
                return await self._read(response, reader, on_started)
        except TimeoutError:
            return reader.end(f"timeout: no end within {timeout:g} s")

    async def follow(self, ref: RunRef, *, user: str, timeout: float) -> Outcome:
        """The run's events, its state so far first. A chat has none."""
        if self.mode not in ("workflow", "advanced-chat"):
            return Running(ref, "this kind of app has no events")
        reader = Talk(self.mode, events=Events(ref=ref))
        try:
            async with asyncio.timeout(timeout):
                try:
                    response = await self._client.events(self._app_id, ref.run_id)
                except (ConnectionFailed, RateLimited) as error:
                    return Unreachable(error.message)
                except AuthError as error:
                    return outcome_of(error)
                except DifyBatchError as error:
                    return Running(ref, error.message)
                return await self._read(response, reader, None)
        except TimeoutError:
            return reader.end(f"no end within {timeout:g} s")

    async def _read(
        self, response: http.Response, reader: Talk, on_started: Callable[[RunRef], None] | None
    ) -> Outcome:
        stream = EventStream(every=reader.needs_all)
        reader.events.accepted = True
        told, chunks, done = reader.events.ref is not None, pieces(response), False
        reason = "the stream ended before the run did"
        try:
            while not done:
                try:
                    async with asyncio.timeout(SILENCE if told else None):
                        found = stream.feed(await anext(chunks))
                except StopAsyncIteration:
                    found, done = stream.finish(), True
                except TimeoutError:
                    return silent(reader, SILENCE)
                except Exception as error:  # noqa: BLE001 - whatever broke the stream, the run is what it is
                    found, done, reason = stream.finish(), True, f"connection cut: {Broken(error)}"
                for event in found:
                    outcome = reader.feed(event)
                    if not told and reader.events.ref is not None:
                        told = True
                        if on_started is not None:
                            on_started(reader.events.ref)  # what it raises is the engine's own
                    if outcome is not None:
                        return outcome
            return reader.end(reason)
        finally:
            await drop(response)

    async def run_detail(self, ref: RunRef, *, user: str | None = None) -> Detail:
        """What is known of one run: by the app key where there is one, else by its events, of which an ended or paused
        run tells its state at once."""
        if self._by_key is not None:
            return await self._by_key.run_detail(ref)
        if await self._runs.listed():
            told = await self._runs.stored(ref)
            if told is not None:
                return told
        try:
            async with asyncio.timeout(_LOOK):
                try:
                    response = await self._client.events(self._app_id, ref.run_id)
                except ConnectionFailed as error:
                    return Detail(Unreachable(error.message))
                except RateLimited as error:
                    return Detail(Unreachable(error.message))
                except AuthError as error:
                    return Detail(outcome_of(error))
                except DifyBatchError as error:
                    if error.details.get("http_status") == 404:
                        return Detail(None)
                    return Detail(Unreachable(error.message))
                return await self._told(response, ref)
        except TimeoutError:
            return Detail(Running(ref, "its events have told no end so far"))

    async def _told(self, response: http.Response, ref: RunRef) -> Detail:
        """The end of a run out of its events. What the server has stored bears the run's id as its task's [24l], and is
        final; an end that is seen live may be `stopped` and go on [30d]."""
        stream, reader = EventStream(), Talk(self.mode, events=Events(ref=ref))
        try:
            async for piece in pieces(response):
                for event in stream.feed(piece):
                    stored = event.get("task_id") == ref.run_id and isinstance(event.get("data"), dict)
                    outcome = reader.feed(event)
                    if isinstance(outcome, Failed) and stored:
                        outcome = ended(event["data"], ref, final=True)
                    if outcome is not None and not isinstance(outcome, Running):
                        return Detail(outcome)
            return Detail(Running(ref, "its events ended without an end of it"))
        except Exception as error:  # noqa: BLE001 - nothing was learnt
            return Detail(Unreachable(f"connection cut: {Broken(error)}"))
        finally:
            await drop(response)

    # ---------------------------------------------------------------- look-ups

    async def logs(
        self,
        *,
        user: str | None = None,
        after: datetime | None = None,
        before: datetime | None = None,
        page: int = 1,
        limit: int = 100,
        status: Ended | None = None,
    ) -> LogPage:
        """The app's runs; with a `user` those of this account. Raises AppError where there is no list of them."""
        if self._by_key is not None:
            account = self._account if user is not None else None
            return await self._by_key.logs(
                account=account, after=after, before=before, page=page, limit=limit, status=status
            )
        if not await self._runs.listed():
            raise AppError(
                "the account surface has no list of runs here, so a lost request cannot be looked up",
                hint="with an app key of the same app beside it (DIFY_API_KEY) it can",
            )
        if page > 1:
            return LogPage((), has_more=False)  # its pages go by the last run's id: all of them were read for the first
        return await self._runs.within(after, before, mine=user is not None)

    # ---------------------------------------------------------------- the rest

    async def stop(self, task_id: str, *, user: str) -> None:
        await self._client.stop(self._app_id, task_id)

    async def upload(self, path: str | Path, *, user: str, mime: str) -> str:
        """Uploads one file; it is good for all runs of this account."""
        try:
            file = await self._threads.run(lambda: Path(path).open("rb"))  # noqa: SIM115  closed below
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror or error}", hint="check the path") from error
        with file:
            return await self._client.upload(self._app_id, Path(path).name, file, mime)

    async def send_file(self, path: str | Path, *, user: str, mime: str) -> str | Outcome:
        """As `upload`, and what it means for the row where there is no id."""
        try:
            uploaded = await self.upload(path, user=user, mime=mime)
        except DifyBatchError as error:
            return upload_outcome(error, str(path))
        return uploaded or Unreachable(f"the upload of {path} was answered without an id", charged=True)

    async def probe(self) -> str | None:
        try:
            await self._client.health()
        except DifyBatchError as error:
            return error.message
        return None


def _variable(entry: Any) -> str | None:
    """The name of one entry of a form, `{type: {variable, …}}`."""
    told = next(iter(entry.values()), None) if isinstance(entry, dict) else None
    return told.get("variable") if isinstance(told, dict) else None


def outcome_of(error: DifyBatchError) -> Outcome:
    """What a refusal of a run's request means for its row."""
    status = error.details.get("http_status")
    server = error.details.get("server") or {}
    code, message = str(server.get("code") or ""), str(server.get("message") or error.message)
    if isinstance(error, ConnectionFailed):
        return Unreachable(error.message) if error.details.get("sent") is False else Lost(error.message)
    if isinstance(error, RateLimited):
        if code == "rate_limit_error":
            return Fatal("quota", code, message, status)
        return Throttled(error.message, error.details.get("retry_after"), status)
    if isinstance(error, AuthError):
        if status == 403:
            return Fatal("app", code or "forbidden", error.message, status)
        return Fatal("auth", "token_expired", error.message, status)
    if error.code == "version_skew":
        return Throttled(error.message, None, status)  # its 412 proves that nothing was executed
    if not isinstance(status, int):
        return Fatal("app", error.code, error.message)
    word = Word(status, code, message if server else "", dify=bool(server))
    return refusal(word, retry_after=error.details.get("retry_after"))
