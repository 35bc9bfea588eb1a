"""`dify-batch status`: what became of the rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dify_batch.cli.channels import show
from dify_batch.cli.parser import Parser, Subparsers, add_command, add_json, add_results

NAME = "status"
USAGE = "status results.jsonl [--json]"


def add_parser(commands: Subparsers, *, complete: bool) -> None:
    parser = add_command(commands, NAME, "what became of the rows of RESULTS")
    add_results(parser, complete=complete)
    add_json(parser)


def run(given: Mapping[str, Any], whole: Callable[..., Parser]) -> int:
    from dify_batch.reports.status import status_report

    return show(status_report(Path(given["results"])), machine="json" in given)
