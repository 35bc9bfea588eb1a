"""`dify-batch status`: what became of the rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dify_batch.cli.channels import show
from dify_batch.cli.parser import Parser, Subparsers, add_command, add_json, add_results

NAME = "status"
USAGE = "status results.jsonl [--id ROW] [--json]"


def add_parser(commands: Subparsers, *, complete: bool) -> None:
    parser = add_command(commands, NAME, "what became of the rows of RESULTS")
    add_results(parser, complete=complete)
    parser.add_argument("--id", metavar="ROW", help="the story of one row, from the journal")
    add_json(parser)


def run(given: Mapping[str, Any], whole: Callable[..., Parser]) -> int:
    if given.get("id") is not None:
        from dify_batch.reports.rowstory import row_story

        return show(row_story(Path(given["results"]), str(given["id"])), machine="json" in given)
    from dify_batch.reports.status import status_report

    return show(status_report(Path(given["results"])), machine="json" in given)
