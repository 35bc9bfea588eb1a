"""`dify-batch export`: results as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dify_batch.cli.channels import show
from dify_batch.cli.parser import Parser, Subparsers, add_command, add_file, add_json, add_results

NAME = "export"
USAGE = "export results.jsonl -o FILE [--json]"


def add_parser(commands: Subparsers, *, complete: bool) -> None:
    parser = add_command(commands, NAME, "RESULTS as a table: .csv or .xlsx", "write")
    add_results(parser, complete=complete)
    add_file(parser, "-o", "--output", complete=complete, metavar="FILE", required=True, help="the file to write")
    add_json(parser)


def run(given: Mapping[str, Any], whole: Callable[..., Parser]) -> int:
    from dify_batch.reports.export import export

    return show(export(Path(given["results"]), Path(given["output"])), machine="json" in given)
