"""What the commands of the account surface share: their common flags, the sign-in that they use, and how they end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dify_batch.cli.channels import fail, unexpected
from dify_batch.cli.output import MACHINE, check_format, note
from dify_batch.cli.parser import Parser
from dify_batch.errors import DifyBatchError

if TYPE_CHECKING:
    from dify_batch.dify.account.cache import AppCache
    from dify_batch.dify.account.client import AccountClient
    from dify_batch.dify.account.hosts import Host, Hosts, HostsFile
    from dify_batch.dify.account.session import Session
    from dify_batch.dify.account.shapes import Shape
    from dify_batch.dify.account.vault import Tokens

APP, EXTERNAL = "app", "permitted-external-app"


def add_common(parser: Parser, formats: Sequence[str]) -> None:
    """The flags that each command of the surface has."""
    parser.add_argument("-o", "--output", dest="format", metavar="FORMAT", help=f"{', '.join(formats)}")
    parser.add_argument("--host", metavar="URL", help="the server, in place of the one in use; demo: the built-in one")
    parser.add_argument("--insecure-http", action="store_true", help="allow http:// to another machine")


def add_workspace(parser: Parser) -> None:
    parser.add_argument("-w", "--workspace", metavar="ID", help="the workspace, in place of the one in use")


class Context:
    """One command's surroundings: what was typed, the environment, what is stored."""

    def __init__(self, given: Mapping[str, Any], form: str) -> None:
        from dify_batch.dify.account.cache import AppCache
        from dify_batch.dify.account.session import cache_folder
        from dify_batch.dify.account.signin import Store
        from dify_batch.seams import Seams

        self.given = given
        self.form = form
        self.machine: bool = form in MACHINE
        self.environ: Mapping[str, str] = os.environ
        self.seams: Seams = Seams()
        self.store: Store = Store.of(self.environ, keyring=not given.get("no_keyring"))
        self.hosts: HostsFile = self.store.hosts
        self.tokens: Tokens = self.store.tokens
        self.cache: AppCache = AppCache(cache_folder(self.environ), self.seams.clock)
        self.secret: str = ""  # the token in use: it is taken out of whatever is shown
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        """A warning: in the document of a machine's format, else a line for people."""
        self.warnings.append(text)
        if not self.machine:
            note(f"warning: {text}")

    def named_host(self) -> str | None:
        """The host that was typed or stands in the environment, checked. Raises UsageError."""
        from dify_batch.dify.account.session import DEMO

        given = self.given.get("host") or (DEMO if self.given.get("demo") else None)
        return self.store.host(given, insecure=bool(self.given.get("insecure_http")))

    def session(self) -> Session:
        """The sign-in to use: the environment's token, else the stored one. Raises AuthError `not_logged_in`."""
        session = self.store.session(self.named_host())
        self.secret = session.token.reveal()
        return session

    def change_host(self, name: str, change: Callable[[Host], Host]) -> Hosts:
        """Changes what is stored of a host, if anything is."""
        return self.hosts.change(
            lambda hosts: (
                hosts.with_host(name, change(hosts.entries[name]), current=False) if name in hosts.entries else hosts
            )
        )

    @contextlib.asynccontextmanager
    async def client(
        self, host: str, token: str = "", *, shape: Shape | None = None, kind: str | None = None, stored: bool = False
    ) -> AsyncIterator[AccountClient]:
        """A client of a host, or of the built-in simulated Dify, which lives as long as the command."""
        from dataclasses import replace

        from dify_batch.batch.demo import account_demonstration
        from dify_batch.dify.account.client import AccountClient
        from dify_batch.dify.account.exchange import AccountExchange
        from dify_batch.dify.account.session import is_demo

        self.secret = token or self.secret

        def keep(found: Shape) -> None:
            if stored:
                self.change_host(host, lambda entry: replace(entry, shape=found))

        with contextlib.ExitStack() as stack:
            address = stack.enter_context(account_demonstration(host, token, kind)) if is_demo(host) else host
            exchange = AccountExchange(address, token, shape=shape, on_shape=keep, seams=self.seams)
            async with AccountClient(exchange) as client:
                yield client

    async def app(
        self, session: Session, client: AccountClient, app_id: str, *, external: bool, fresh: bool = False
    ) -> dict[str, Any]:
        """info, parameters and input_schema of an app: out of the cache, which asks for nothing that it has."""
        from dify_batch.dify.account.client import FIELDS

        known = None if fresh else self.cache.get(session.host, app_id, FIELDS)
        if known is None:
            known = await client.describe(app_id, external=external)
            self.cache.put(session.host, app_id, known)
        return known

    @contextlib.asynccontextmanager
    async def signed_in(self, *, external: bool, twin: str) -> AsyncIterator[tuple[Session, AccountClient]]:
        """The session with its client, once it is known to be of the kind that the command is for."""
        from dataclasses import replace

        from dify_batch.dify.account.session import check_surface, kind_of_subject

        session = self.session()
        check_surface(session.kind, external=external, twin=twin)
        async with self.client(
            session.host, session.token.reveal(), shape=session.shape, kind=session.kind, stored=session.stored
        ) as client:
            if session.kind is None:
                account = await client.account()
                session = replace(session, kind=kind_of_subject(account.get("subject_type")))
                check_surface(session.kind, external=external, twin=twin)
            yield session, client


def carry_out(given: Mapping[str, Any], formats: Sequence[str], work: Callable[[Context], Awaitable[int]]) -> int:
    """Runs a command and gives its exit status; every error is shown on the channel of its format."""
    import asyncio

    form = check_format(given, formats)
    context: Context | None = None
    try:
        context = Context(given, form)
        return asyncio.run(_awaited(work, context))
    except DifyBatchError as error:
        return fail(error, machine=form in MACHINE, key=context.secret if context else "")
    except (KeyboardInterrupt, asyncio.CancelledError):
        return fail(DifyBatchError("interrupted", code="interrupted"), machine=form in MACHINE)
    except Exception as error:  # noqa: BLE001 - see main
        return fail(unexpected(error), machine=form in MACHINE, key=context.secret if context else "")


async def _awaited(work: Callable[[Context], Awaitable[int]], context: Context) -> int:
    return await work(context)
