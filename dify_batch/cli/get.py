"""`dify-batch get`: the apps that an account, or an external sign-in, may use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any

from dify_batch.cli.account import Context, add_common, add_workspace, carry_out
from dify_batch.cli.channels import fail
from dify_batch.cli.output import LISTS, SINGLE, note
from dify_batch.cli.parser import Parser, Subparsers, add_command
from dify_batch.errors import Exit, UsageError

if TYPE_CHECKING:
    from dify_batch.dify.account.client import AccountClient
    from dify_batch.dify.account.listing import Fetched
    from dify_batch.dify.account.session import Session

NAME = "get"
USAGE = "get apps|app|permitted-external-apps|permitted-external-app [ID] [options]"
FORMATS = ("table", "wide", "name", "json", "yaml")
EXTERNAL_FORMATS = ("table", "name", "json", "yaml")
MODES = ("workflow", "advanced-chat", "chat", "agent-chat", "completion")
DEFAULT_LIMIT, MAX_LIMIT = 50, 10_000


def add_parser(commands: Subparsers, *, complete: bool) -> None:
    parser = add_command(commands, NAME, "list apps, or show one of them in a line")
    nouns = parser.add_subparsers(dest="noun", metavar="WHAT", required=True, parser_class=Parser)
    apps = add_command(nouns, "apps", "the apps of a workspace, those changed last first")
    _add_filters(apps)
    add_workspace(apps)
    apps.add_argument("-A", "--all-workspaces", action="store_true", help="of all workspaces")
    apps.add_argument("--tag", action="append", metavar="TAG", help="with this tag; again: with all of them")
    add_common(apps, FORMATS)
    external = add_command(nouns, "permitted-external-apps", "the apps that an external sign-in may run")
    _add_filters(external)
    add_common(external, EXTERNAL_FORMATS)
    for noun, what in (("app", "one app"), ("permitted-external-app", "one app of an external sign-in")):
        one = add_command(nouns, noun, what)
        one.add_argument("id", metavar="ID", help="its id")
        one.add_argument("--refresh", action="store_true", help="ask the server, whatever is known")
        add_common(one, FORMATS if noun == "app" else EXTERNAL_FORMATS)


def _add_filters(parser: Parser) -> None:
    parser.add_argument("--mode", metavar="MODE", help=", ".join(MODES))
    parser.add_argument("--name", metavar="TEXT", help="with this text in the name")
    parser.add_argument("--limit", metavar="N", help=f"at most N apps (default {DEFAULT_LIMIT}, at most {MAX_LIMIT:,})")


def run(given: Mapping[str, Any], whole: Callable[..., Parser]) -> int:
    noun = str(given["noun"])
    formats = EXTERNAL_FORMATS if noun.startswith("permitted") else FORMATS
    return carry_out(given, formats, _apps if noun.endswith("s") else _app)


def read_limit(text: str | None) -> int:
    """Raises UsageError `config_invalid_value`."""
    if text is None:
        return DEFAULT_LIMIT
    if not text.strip().isascii() or not text.strip().isdigit() or not 1 <= int(text) <= MAX_LIMIT:
        raise UsageError(f'--limit: "{text}" is not a whole number from 1 to {MAX_LIMIT:,}')
    return int(text)


def _filters(given: Mapping[str, Any]) -> dict[str, str]:
    if (mode := given.get("mode")) is not None and mode not in MODES:
        raise UsageError(f'--mode: "{mode}" is not one of {", ".join(MODES)}', code="usage_invalid_flag")
    return {name: str(given[name]) for name in ("mode", "name") if given.get(name)}


async def _apps(context: Context) -> int:
    given = context.given
    external = str(given["noun"]).startswith("permitted")
    limit, filters = read_limit(given.get("limit")), _filters(given)
    everywhere = bool(given.get("all_workspaces"))
    if everywhere and given.get("workspace"):
        raise UsageError("-A and -w contradict each other", code="usage_invalid_flag", hint="leave one of them out")
    shown = LISTS[context.form](with_workspace=everywhere)
    twin = "get apps" if external else "get permitted-external-apps"
    count, total, error = 0, 0, None
    async with context.signed_in(external=external, twin=twin) as (session, client):
        async for fetched in _fetch(context, session, client, limit, filters, external=external):
            if fetched.error is not None:
                error = fetched.error
            if fetched.rows:
                shown.take(fetched.rows)
            count, total = count + len(fetched.rows), max(total, fetched.total)
    shown.close(total=total, limit=limit, error=None if error is None else error.as_dict())
    if error is not None:
        status = fail(error, machine=context.machine, key=context.secret)
        return Exit.FAILED if count else status
    if not shown.quiet:
        note(f"fetched {count:,} of {total:,} rows")
    return Exit.OK


async def _fetch(
    context: Context, session: Session, client: AccountClient, limit: int, filters: dict[str, str], *, external: bool
) -> AsyncIterator[Fetched]:
    from dify_batch.dify.account import listing
    from dify_batch.dify.account.session import workspace_of

    tags = tuple(context.given.get("tag") or ())
    if external:
        async for fetched in listing.of_external(client, limit, filters):
            yield fetched
    elif context.given.get("all_workspaces"):
        yield await listing.of_all(client, await client.workspaces(), limit, filters, tags)
    else:
        workspace = workspace_of(context.given.get("workspace"), context.environ, session)
        async for fetched in listing.of_workspace(client, workspace, limit, filters, tags):
            yield fetched


async def _app(context: Context) -> int:
    external = str(context.given["noun"]).startswith("permitted")
    app_id = str(context.given["id"])
    twin = f"get {'app' if external else 'permitted-external-app'} {app_id}"
    async with context.signed_in(external=external, twin=twin) as (session, client):
        found = None
        if not context.given.get("refresh"):
            found = context.cache.get(session.host, app_id, ("info",))
        if found is None:
            found = await client.describe(app_id, ("info",), external=external)
            context.cache.put(session.host, app_id, found)
    SINGLE[context.form](dict(found.get("info") or {}))
    return Exit.OK
