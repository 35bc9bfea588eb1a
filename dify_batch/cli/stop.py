"""`dify-batch stop`: the runs that a killed batch has left on the server."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dify_batch.cli.channels import fail, show, write
from dify_batch.cli.connection import last_call
from dify_batch.cli.parser import Parser, Subparsers, add_command, add_file, add_json, add_results

if TYPE_CHECKING:
    from dify_batch.batch.stopping_runs import End, Stopped
    from dify_batch.settings import Settings

NAME = "stop"
USAGE = "stop results.jsonl [--yes] [--env-file PATH] [--json]"


def add_parser(commands: Subparsers, *, complete: bool) -> None:
    parser = add_command(commands, NAME, "stops the runs that a killed batch has left on the server", "destructive")
    add_results(parser, complete=complete)
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask first")
    add_file(
        parser, "--env-file", complete=complete, metavar="PATH", help="read settings from this file (default .env)"
    )
    add_json(parser)


def run(given: Mapping[str, Any], whole: Callable[..., Parser]) -> int:
    import asyncio

    from dify_batch.errors import DifyBatchError
    from dify_batch.settings import load_settings

    machine = "json" in given
    settings, _ = load_settings(last_call(given, whole))
    stopped = asyncio.run(_stop(settings, asks="yes" not in given, machine=machine))
    if stopped is None or stopped.all_ended:
        return show(stopped or _nothing(), machine=machine)
    left = sum(end in ("runs on", "no task id", "not reached", "gone") for end in stopped.ends.values())
    error = DifyBatchError(
        stopped.text(),
        code="not_finished",
        hint=f"{left + stopped.unknown} may run on; see dify-batch status {settings.output}",
        **stopped.as_dict(),
    )
    return fail(error, machine=machine, key=settings.api_key.reveal())


def _nothing() -> Stopped:
    from dify_batch.batch.stopping_runs import Stopped

    return Stopped({}, 0)


async def _stop(settings: Settings, *, asks: bool, machine: bool) -> Stopped | None:
    """None where the person said no."""
    from dify_batch.batch.appkind import client_of_app
    from dify_batch.batch.opened import opened_output
    from dify_batch.batch.stopping_runs import WORDS, open_runs, stop_runs
    from dify_batch.dify.client import DifyClient
    from dify_batch.errors import UsageError
    from dify_batch.text import count

    def tell(row_id: str, end: End) -> None:
        if not machine:
            write(sys.stderr, f"row {row_id}: {WORDS[end]}\n")

    async with (
        DifyClient(settings.base_url, settings.api_key.reveal()) as asking,
        opened_output(settings, asking) as opened,
    ):
        client = await client_of_app(settings, asking)
        runs = open_runs(opened.state)
        if runs and asks:
            if machine or sys.stdin is None or not sys.stdin.isatty():
                raise UsageError(
                    f"{count(len(runs), 'run')} would be stopped, and there is no terminal to ask at",
                    hint=f"add --yes: dify-batch stop {settings.output} --yes",
                    code="usage_missing_arg",
                )
            write(
                sys.stderr,
                f"{count(len(runs), 'run')} may go on on the server. Stop them? What they did is paid. [y/N] ",
            )
            if sys.stdin.readline().strip().lower() not in ("y", "yes"):
                return None
        return await stop_runs(opened, client, tell)
