"""KindClient: an app of any kind behind the engine's `Surface`. A workflow's calls stay those of `DifyClient`.

Facts come from recorded exchanges of a Dify 1.14.2 server; the numbers in brackets name them.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlencode

from dify_batch.dify import http
from dify_batch.dify.answers import Detail, LogPage
from dify_batch.dify.client import DifyClient
from dify_batch.dify.hearing import detail_heard, outcome_heard
from dify_batch.dify.kinds.kind import CHAT, CHATFLOW, COMPLETION, KINDS, QUERY, WORKFLOW, Kind, KindName
from dify_batch.dify.kinds.reading import Flowing, Talking
from dify_batch.dify.kinds.stored import conversation_page, message_detail, with_message
from dify_batch.dify.kinds.users import KnownUsers
from dify_batch.dify.protocol import Events, Reader
from dify_batch.dify.watching import RunEvent
from dify_batch.errors import (
    AppError,
    AuthError,
    DifyBatchError,
    ServerError,
    UsageError,
)
from dify_batch.outcomes import (
    CUT_OFF,
    Failed,
    Fatal,
    Outcome,
    Running,
    RunRef,
    RunResult,
    Succeeded,
    Unreachable,
)
from dify_batch.seams import REAL, Seams

GRACE = 30.0
"""Seconds that a chatflow which the wire called stopped is given to end all the same: past the server's time limit it
goes on and succeeds seconds later [31ab]; stopped by its user its detail says running for ever [31u1]."""


class KindClient(DifyClient):
    """The service API of an app of `kind`. Arguments beyond those of `DifyClient`:

    kind: workflow, chatflow, chat, agent or completion.
    message: the key of the message among a row's inputs. `keep_message`: the app's form has an input of that name, too.
    """

    def __init__(
        self,
        kind: Kind | KindName,
        base_url: str,
        api_key: str,
        *,
        workflow_id: str | None = None,
        message: str = QUERY,
        keep_message: bool = False,
        transport: http.AsyncBaseTransport | None = None,
        connect_timeout: float = 10,
        seams: Seams = REAL,
    ) -> None:
        kind = KINDS[kind] if isinstance(kind, str) else kind
        pinned = workflow_id if kind is WORKFLOW else None
        super().__init__(
            base_url,
            api_key,
            workflow_id=pinned,
            transport=transport,
            connect_timeout=connect_timeout,
            seams=seams,
        )
        self.kind: Kind = kind
        self._workflow_id = workflow_id
        self._message = message
        self._keep_message = keep_message
        if kind is not WORKFLOW:
            self._run_url = str(http.URL(self.base_url + kind.path))
        self._users = KnownUsers(lambda user: self._conversations(user, limit=1))
        self._stopped: dict[str, tuple[RunResult, float]] = {}
        self._stops: set[str] = set()
        self._pages: dict[tuple[str, int], str] = {}

    @classmethod
    def of(
        cls,
        kind: Kind,
        client: DifyClient,
        *,
        workflow_id: str | None = None,
        message: str = QUERY,
        keep_message: bool = False,
    ) -> KindClient:
        """One for the same app, over the connections of `client`, which whoever made it closes."""
        made = cls(
            kind,
            client.base_url,
            client._key,
            workflow_id=workflow_id,
            message=message,
            keep_message=keep_message,
            transport=client._transport,
        )
        made._clock, made._threads, made._timeout = client._clock, client._threads, client._timeout
        made._date, made.server_version, made.answered = client._date, client.server_version, client.answered
        return made

    async def kind_by_answers(self) -> Kind | None:
        """The kind of the app, by what it answers to two harmless questions; None where nothing certain is told. For a
        server that does not tell GET /info. An agent is taken for a chat, until it refuses its first row.

        Raises what the endpoints raise, but for a refusal.
        """
        talks = await self._accepts("/conversations?user=dify-batch&limit=1", {"not_chat_app": False})
        nobody = "00000000-0000-0000-0000-000000000000"
        flows = await self._accepts(f"/workflows/run/{nobody}", {"not_workflow_app": False, "not_found": True})
        if talks is None or flows is None:
            return None
        return {(False, True): WORKFLOW, (True, True): CHATFLOW, (True, False): CHAT, (False, False): COMPLETION}[
            talks, flows
        ]

    async def _accepts(self, path: str, by_code: Mapping[str, bool]) -> bool | None:
        try:
            await self._json("GET", path)
        except (AppError, ServerError) as error:
            server = error.details.get("server")
            return by_code.get(str(server.get("code"))) if isinstance(server, dict) else None
        return True

    # ---------------------------------------------------------------- runs

    async def run(
        self,
        inputs: Mapping[str, Any],
        *,
        user: str,
        mode: Literal["streaming", "blocking"],
        files: Sequence[Mapping[str, Any]] | None = None,
        timeout: float,
        silence: float = 30.0,
        on_started: Callable[[RunRef], None] | None = None,
        trace_id: str | None = None,
    ) -> Outcome:
        """As `DifyClient.run`. A `user` that is new is made known first: two requests that meet make two users of it,
        and its message is never found again [31i]."""
        if (unknown := await self._make_known(user)) is not None:
            return unknown
        outcome = await super().run(
            inputs,
            user=user,
            mode=self.kind.only or mode,
            files=files,
            timeout=timeout,
            silence=silence,
            on_started=on_started,
            trace_id=trace_id,
        )
        if self.kind is CHATFLOW and isinstance(outcome, Failed) and not outcome.confirmed:
            self._stopped[outcome.result.ref.run_id] = outcome.result, self._clock.monotonic()
        return outcome

    async def events(
        self,
        inputs: Mapping[str, Any],
        *,
        user: str,
        files: Sequence[Mapping[str, Any]] | None = None,
        timeout: float = 1200.0,
    ) -> AsyncGenerator[RunEvent, None]:
        """As `DifyClient.events`: of what runs a workflow. A broken stream of any other kind loses a paid answer."""
        if not self.kind.flows:
            raise UsageError(f"a {self.kind.name} is not asked by a stream here: {self.kind.why}")
        if self.kind.lists:
            await self._conversations(user, limit=1)
        async with contextlib.aclosing(super().events(inputs, user=user, files=files, timeout=timeout)) as events:
            async for event in events:
                yield event

    def _body(
        self, inputs: Mapping[str, Any], user: str, mode: str, files: Sequence[Mapping[str, Any]] | None
    ) -> dict[str, Any]:
        return self.kind.request(
            inputs,
            user=user,
            mode=mode,
            files=files,
            message=self._message,
            keep_message=self._keep_message,
            workflow_id=None if self.kind is WORKFLOW else self._workflow_id,
        )

    def _reader(self) -> Reader:
        if self.kind is WORKFLOW:
            return super()._reader()
        return Flowing(self.kind) if self.kind is CHATFLOW else Talking(self.kind)

    async def _make_known(self, user: str) -> Outcome | None:
        """What keeps the server from knowing the user; None once it does, or where nothing is found by it."""
        return await self._users.make(user) if self.kind.lists else None

    async def follow(self, ref: RunRef, *, user: str, timeout: float, silence: float = 30.0) -> Outcome:
        """As `DifyClient.follow`; only what runs a workflow has events."""
        if not self.kind.flows:
            return Running(ref, f"a {self.kind.name} has no events after its answer")
        if self.kind is WORKFLOW:
            return await super().follow(ref, user=user, timeout=timeout, silence=silence)
        reader = Flowing(self.kind, Events(ref=ref))
        outcome = await self._attempt(self._events_of(ref, user), reader, timeout, silence, None, follows=True)
        if isinstance(outcome, Succeeded):
            outcome = await self._named(outcome, ref, user)
        return outcome_heard(outcome, self._key)

    # ---------------------------------------------------------------- what the server holds

    async def run_detail(self, ref: RunRef, *, user: str | None = None) -> Detail:
        """What the server holds of one run: a workflow's detail, or its message, which only its own `user` is told."""
        if not self.kind.flows:
            return await self._message_detail(ref, user)
        detail = await super().run_detail(ref)
        if self.kind is WORKFLOW:
            return detail
        if detail.outcome is None and user is not None:  # a look-up has found it, and knows its conversation alone
            return await self._message_detail(ref, user)
        if isinstance(detail.outcome, Running) and (end := await self._stopped_end(ref, user)) is not None:
            detail = replace(detail, outcome=end)
        if isinstance(detail.outcome, Succeeded):
            detail = replace(detail, outcome=await self._named(detail.outcome, ref, user))
        return with_message(detail, self._message)

    async def _stopped_end(self, ref: RunRef, user: str | None) -> Failed | None:
        """The end of a chatflow that has been stopped and whose detail says running for ever [31u1]."""
        by_us = ref.task_id in self._stops
        known = self._stopped.get(ref.run_id)
        if known is not None:
            result, since = known
            if by_us:
                return Failed(result)
            late = self._clock.monotonic() - since >= GRACE
            return Failed(replace(result, status=CUT_OFF, error=result.error or "it was stopped")) if late else None
        if not by_us or ref.conversation_id is None:
            return None
        message = (await self._message_detail(ref, user)).outcome
        if not isinstance(message, Succeeded):
            return None
        return Failed(replace(message.result, ref=ref, status="stopped", error="stopped by its user"))

    async def _named(self, outcome: Succeeded, ref: RunRef, user: str | None) -> Succeeded:
        """With the names of its message among the outputs: neither run detail nor the events of a run that has ended
        have them."""
        result = outcome.result
        if ref.conversation_id is None or not isinstance(result.outputs, dict) or "message_id" in result.outputs:
            return outcome
        names = {"conversation_id": ref.conversation_id}
        message = (await self._message_detail(ref, user)).outcome
        if isinstance(message, Succeeded):
            names = {name: value for name, value in message.result.outputs.items() if name != "answer"}
        return Succeeded(replace(result, ref=ref, outputs={**result.outputs, **names}))

    async def _message_detail(self, ref: RunRef, user: str | None) -> Detail:
        if not self.kind.lists:
            return Detail(None)  # no completion is told again, its text the less
        if user is None:
            return Detail(Running(ref, "its message is told to its own user only, who is not known"))
        query = urlencode({"user": user, "conversation_id": ref.conversation_id or ref.run_id}, quote_via=quote)
        try:
            answer = await self._json("GET", f"/messages?{query}")
        except AuthError as error:
            return Detail(Fatal("auth", error.code, error.message, error.details.get("http_status")))
        except DifyBatchError as error:
            if error.details.get("http_status") == 404 and "server" in error.details:
                return Detail(None)
            return Detail(Unreachable(error.message))
        return detail_heard(message_detail(self.kind, answer, ref, self._message), self._key)

    async def logs(
        self,
        *,
        user: str | None = None,
        after: datetime | None = None,
        before: datetime | None = None,
        page: int = 1,
        limit: int = 100,
        **more: Any,
    ) -> LogPage:
        """The runs of a `user`: of what talks, its conversations. Nobody is told those of everybody: without a `user`
        the page is empty.

        Raises:
            AppError: a completion is in no list at all.
        """
        if self.kind is WORKFLOW:
            return await super().logs(user=user, after=after, before=before, page=page, limit=limit, **more)
        if not self.kind.lists:
            raise AppError(
                "Dify lists no answers of a completion app, so what became of a lost request cannot be known",
                hint="look at the app's log in Dify; --retry --retry-unknown sends such rows again",
            )
        if user is None:
            return LogPage((), has_more=False)
        last = None if page == 1 else self._pages.get((user, page - 1))
        if page > 1 and last is None:
            return LogPage((), has_more=False)
        found, end = conversation_page(await self._conversations(user, limit=limit, last=last), user, after, before)
        if end is not None and found.has_more:
            self._pages[user, page] = end
        else:
            self._pages.pop((user, page), None)
        return found

    async def _conversations(self, user: str, *, limit: int, last: str | None = None) -> dict[str, Any]:
        query = {"user": user, "limit": str(limit)} | ({} if last is None else {"last_id": last})
        return await self._json("GET", f"/conversations?{urlencode(query, quote_via=quote)}")

    # ---------------------------------------------------------------- the rest

    async def stop(self, task_id: str, *, user: str) -> None:
        """Stops an answer under way; a chat's only for its own `user` [32u2]. The server says success to any id."""
        if self.kind is WORKFLOW:
            await super().stop(task_id, user=user)
            return
        self._stops.add(task_id)
        await self._json("POST", f"{self.kind.path}/{quote(task_id, safe='')}/stop", {"user": user})

    async def send_file(self, path: str | Path, *, user: str, mime: str) -> str | Outcome:
        """As `DifyClient.send_file`; a new `user` is made known first [31q5]."""
        if (unknown := await self._make_known(user)) is not None:
            return unknown
        return await super().send_file(path, user=user, mime=mime)
