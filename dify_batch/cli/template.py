"""`dify-batch template`: an empty table that the app accepts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dify_batch.cli.channels import show
from dify_batch.cli.connection import add_connection, connected
from dify_batch.cli.parser import Parser, Subparsers, add_command, add_file, add_json

if TYPE_CHECKING:
    from dify_batch.input.form import Form

NAME = "template"
USAGE = "template -o data.csv|data.xlsx [--example] [--demo] [--app-kind KIND] [--json]"


def add_parser(commands: Subparsers, *, complete: bool) -> None:
    parser = add_command(
        commands, NAME, "an empty table that the app accepts, with a column for each of its inputs", "write"
    )
    add_file(parser, "-o", "--output", complete=complete, metavar="FILE", required=True, help=".csv or .xlsx to write")
    parser.add_argument("--example", action="store_true", help="with one row that shows what the cells look like")
    parser.add_argument("--no-bom", action="store_true", help="a .csv without a byte-order mark")
    add_connection(parser, complete=complete)
    add_json(parser)


def run(given: Mapping[str, Any], whole: Callable[..., Parser]) -> int:
    import asyncio

    from dify_batch.reports.template import write_template

    form = asyncio.run(_ask(given))
    written = write_template(form, Path(given["output"]), example="example" in given, bom="no_bom" not in given)
    return show(written, machine="json" in given)


async def _ask(given: Mapping[str, Any]) -> Form:
    from dify_batch.batch.appkind import ask_app

    async with connected(given) as (settings, client):
        return (await ask_app(settings, client)).form
