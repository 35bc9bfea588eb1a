"""What a batch sends its rows to: the app behind a key, or with --app an app of the account that is signed in."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from dify_batch.batch.appkind import client_for
from dify_batch.batch.demo import account_demonstration, demonstration
from dify_batch.dify.account.session import DEMO, Session, Token, is_demo, kind_of_subject
from dify_batch.dify.client import DifyClient
from dify_batch.dify.kinds.kind import QUERY, WORKFLOW, Kind
from dify_batch.engine.surface import Surface
from dify_batch.input.form import Form
from dify_batch.seams import Seams
from dify_batch.settings import Settings
from dify_batch.summary import Notice
from dify_batch.text import duration

if TYPE_CHECKING:
    from dify_batch.dify.transport import AnyTransport

ACCOUNT_RATE = 1.0
"""Starts a second: servers allow 60 requests a minute for each token (OPENAPI_RATE_LIMIT_PER_TOKEN) [27p2]."""


class AppClient(Surface, Protocol):
    """A surface that tells of its app before the first run."""

    server_version: str | None

    @property
    def base_url(self) -> str: ...
    async def parameters(self) -> dict[str, Any]: ...
    async def info(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Target:
    """`settings`: of a demo they are its own. `base_url`, `owner`: what stands for the server and the app in the
    identity of the output: the key, or the app's id. `options`: what the engine is told in place of the settings.
    `until`: when the sign-in ends, seconds since 1970. `kind`: of an app behind a key, once it is known."""

    client: AppClient
    settings: Settings
    base_url: str
    owner: str
    options: Mapping[str, Any] = field(default_factory=dict)
    notices: tuple[Notice, ...] = ()
    until: float | None = None
    kind: Kind = WORKFLOW

    @property
    def mode(self) -> str:
        """The response mode that is asked for; auto begins with streaming."""
        return str(self.options.get("mode", self.settings.mode))

    def payload(self, inputs: Mapping[str, Any], files: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
        """The body of a row's request, but for its user."""
        mode = "streaming" if self.mode == "auto" else self.mode
        message = self.settings.query_column or QUERY
        body = self.kind.request(inputs, user="", mode=mode, files=files, message=message)
        return {name: value for name, value in body.items() if name != "user"}

    def of_kind(self, kind: Kind, form: Form) -> Target:
        """The same app, now that its kind is known: asked as that kind is, in the mode that loses nothing."""
        if kind is WORKFLOW or not isinstance(self.client, DifyClient):
            return self
        client = client_for(self.settings, kind, self.client, form)
        return replace(self, client=client, options={**self.options, "mode": kind.only}, kind=kind)

    def before_sending(self, to_run: int, now: float) -> list[Notice]:
        """What a person should know before the first row is sent."""
        found = list(self.notices)
        rate = self.options.get("rate")
        if self.until is not None and rate and to_run / rate > self.until - now:
            ends = datetime.fromtimestamp(self.until, UTC)
            found.append(
                Notice(
                    "sign_in_ends",
                    f"the sign-in ends at {ends:%Y-%m-%d %H:%M} UTC, and {to_run:,} rows take about "
                    f"{duration(to_run / rate)}: sign in again first (dify-batch auth login)",
                )
            )
        return found


@contextlib.asynccontextmanager
async def open_target(
    settings: Settings, transport: AnyTransport | None, seams: Seams, *, simulated: bool = True
) -> AsyncIterator[Target]:
    """The surface, as long as the context lasts. `simulated`: with --demo a simulated Dify is started for it; else the
    settings lead to one.

    Raises:
        UsageError, AuthError: the settings, or that nobody is signed in.
        AppError, ConnectionFailed, ServerError, RateLimited: with --app, the server's answer to what the app is.
    """
    async with contextlib.AsyncExitStack() as stack:
        if settings.app is not None:
            yield await _account(stack, settings, settings.app, transport, seams)
            return
        if settings.demo and simulated:
            settings = stack.enter_context(demonstration(settings))
        client = await stack.enter_async_context(_by_key(settings, transport, seams))
        yield Target(client, settings, settings.base_url, settings.api_key.reveal())


def _by_key(settings: Settings, transport: AnyTransport | None, seams: Seams) -> DifyClient:
    return DifyClient(
        settings.base_url,
        settings.api_key.reveal(),
        workflow_id=settings.workflow_id,
        transport=transport,
        connect_timeout=min(10.0, settings.timeout / 2),  # a refusal to connect must not look like a lost answer
        seams=seams,
    )


async def _account(
    stack: contextlib.AsyncExitStack, settings: Settings, app_id: str, transport: AnyTransport | None, seams: Seams
) -> Target:
    from dify_batch.dify.account.batch_client import BatchClient
    from dify_batch.dify.account.client import AccountClient
    from dify_batch.dify.account.exchange import AccountExchange

    session = _session(demo=settings.demo)
    token, host = session.token.reveal(), session.host
    if is_demo(host):
        settings = replace(settings, demo=True)
        host = stack.enter_context(account_demonstration(host, token, session.kind))
    exchange = AccountExchange(host, token, shape=session.shape, transport=transport, seams=seams)
    client = await stack.enter_async_context(AccountClient(exchange))
    email, kind = session.email, session.kind
    if not email or kind is None:
        account = await client.account()
        kind = kind_of_subject(account.get("subject_type"))
        person = account.get("account")
        email = str(person.get("email") if isinstance(person, dict) else account.get("subject_email") or "account")
    external = kind == "external"
    app = await client.describe(app_id, external=external)
    by_key = None
    if settings.api_key and not settings.demo:
        by_key = await stack.enter_async_context(_by_key(settings, None, seams))
    workspace = settings.workspace or (session.workspace.id if session.workspace is not None else None)
    batch_client = BatchClient(
        client,
        app_id,
        email,
        app,
        seams,
        by_key=by_key,
        workflow_id=settings.workflow_id,
        workspace_id=workspace,
        external=external,
        message=settings.query_column or QUERY,
    )
    options: dict[str, Any] = {"mode": "streaming", "user": _plain(email), "rate": settings.rate or ACCOUNT_RATE}
    if by_key is None and settings.retry_policy == "safe":
        options["policy"] = "strict"  # without the app's log nothing proves that a lost request did not run
    notices = []
    if settings.rate is None:
        text = "the account surface allows 60 requests a minute: --rate 60/m is taken"
        notices.append(Notice("account_rate", text))
    return Target(
        batch_client,
        settings,
        batch_client.base_url,
        app_id,
        options,
        tuple(notices),
        _moment(session.expires_at),
    )


def _session(*, demo: bool) -> Session:
    from dify_batch.dify.account.signin import Store

    if demo:
        return Session(DEMO, Token("dfoa_demo"), "account", "admin@example.com")
    store = Store.of(os.environ)
    return store.session(store.host(None))


def _plain(email: str) -> str:
    """The e-mail address as a `user` that names no column."""
    return email.replace("{", "").replace("}", "")


def _moment(text: str | None) -> float | None:
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
