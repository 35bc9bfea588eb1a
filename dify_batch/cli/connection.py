"""What the commands share that ask the app behind the key and are no batch: its address, its key, a client."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dify_batch.cli.channels import write
from dify_batch.cli.parser import Parser, add_file
from dify_batch.flags import BY_DEST

if TYPE_CHECKING:
    from dify_batch.dify.client import DifyClient
    from dify_batch.settings import Settings

_OWN = (
    "env_file",
    "demo",
    "app_kind",
    "query_column",
    "constants",
    "sheet",
    "encoding",
    "delimiter",
    "id_column",
    "user",
    "timeout",
    "log_file",
)


def add_connection(parser: Parser, *, complete: bool) -> None:
    """The options that say which app is asked."""
    parser.add_argument("--demo", action="store_true", help="ask the built-in simulated Dify")
    kinds = BY_DEST["app_kind"].choices
    parser.add_argument("--app-kind", choices=kinds, metavar="KIND", help=f"the kind of the app: {', '.join(kinds)}")
    parser.add_argument("--query-column", metavar="NAME", help="the column with the message (default query)")
    add_file(
        parser, "--env-file", complete=complete, metavar="PATH", help="read settings from this file (default .env)"
    )


def read_settings(given: Mapping[str, Any]) -> Settings:
    """The settings of a command: read, and checked, where those of the batch are, so that both speak to the same app.

    Raises:
        UsageError, AuthError: as for a batch.
    """
    from dify_batch.settings import load_settings

    typed = {name: given[name] for name in _OWN if name in given}
    # A batch has an input and an output, and these commands have none of their own that the settings would check.
    settings, warnings = load_settings({"input": "-", "output": os.devnull + ".jsonl", **typed})
    if "json" not in given and given.get("output") not in ("json", "yaml"):  # there success says nothing else
        for warning in warnings:
            write(sys.stderr, f"{warning}\n")
    return settings


@contextlib.asynccontextmanager
async def connected(given: Mapping[str, Any]) -> AsyncIterator[tuple[Settings, DifyClient]]:
    """The settings and a client of the app behind the key, or of the simulated one with --demo."""
    from dify_batch.batch.demo import demonstration
    from dify_batch.dify.client import DifyClient

    settings = read_settings(given)
    with contextlib.ExitStack() as stack:
        if settings.demo:
            settings = stack.enter_context(demonstration(settings))
        async with DifyClient(settings.base_url, settings.api_key.reveal(), workflow_id=settings.workflow_id) as client:
            yield settings, client


def last_call(given: Mapping[str, Any], whole: Callable[..., Parser]) -> dict[str, Any]:
    """The last batch of `given["results"]` as it was typed (dest → text), from its journal, with the --env-file of
    today. So a command that goes on with an output asks the same app in the same way.

    Raises UsageError: there is no batch of that name, or it asked no app behind a key.
    """
    from dify_batch.errors import UsageError
    from dify_batch.ledger.formats import Paths
    from dify_batch.ledger.state import read_state
    from dify_batch.reports.status import require_batch

    output = Path(given["results"])
    paths = Paths.of(output)
    require_batch(paths)
    last = read_state(paths).last_batch or {}
    source = str(last.get("input") or "-")
    typed = vars(whole().parse_args(["-i", source, "-o", str(output), *last.get("again", ())]))
    typed.pop("command", None)
    if typed.get("demo"):
        raise UsageError(f"{output} was made with --demo, and its simulated Dify has gone with it")
    if typed.get("app"):
        raise UsageError(
            f"{output} holds runs of an account's app, and this command needs an app key",
            hint=f"for a paused run: dify-batch resume app {typed['app']} RUN; its id is in {output}.paused",
            code="usage_invalid_flag",
        )
    return typed | ({"env_file": given["env_file"]} if "env_file" in given else {})
