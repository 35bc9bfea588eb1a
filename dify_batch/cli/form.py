"""`dify-batch form`: what the app behind the key asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dify_batch.cli.channels import to_json, write
from dify_batch.cli.connection import add_connection, connected
from dify_batch.cli.parser import Parser, Subparsers, add_command

NAME = "form"
USAGE = "form [-o text|json|yaml] [--demo] [--app-kind KIND]"


def add_parser(commands: Subparsers, *, complete: bool) -> None:
    parser = add_command(commands, NAME, "the inputs that the app asks for: types, required ones, options, limits")
    parser.add_argument(
        "-o", "--output", choices=("text", "json", "yaml"), default="text", help="how to print it (default text)"
    )
    add_connection(parser, complete=complete)


def run(given: Mapping[str, Any], whole: Callable[..., Parser]) -> int:
    import asyncio
    import sys

    from dify_batch.errors import Exit

    report = asyncio.run(_ask(given))
    match given["output"]:
        case "json":
            shown = to_json(report.as_dict())
        case "yaml":
            import yaml

            shown = yaml.safe_dump(report.as_dict(), allow_unicode=True, sort_keys=False)
        case _:
            shown = report.text()
    write(sys.stdout, shown.rstrip("\n") + "\n")
    return Exit.OK


async def _ask(given: Mapping[str, Any]) -> Any:
    from dify_batch.batch.appkind import ask_app
    from dify_batch.input.described import FormReport

    async with connected(given) as (settings, client):
        app = await ask_app(settings, client)
    return FormReport(app.form, app.info)
