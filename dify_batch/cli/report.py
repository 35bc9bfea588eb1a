"""`dify-batch report`: what came of one or several outputs, as one HTML file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dify_batch.cli.channels import show
from dify_batch.cli.parser import Parser, Subparsers, add_command, add_file, add_json

NAME = "report"
USAGE = "report results.jsonl... -o report.html [--json]"


def add_parser(commands: Subparsers, *, complete: bool) -> None:
    parser = add_command(commands, NAME, "RESULTS as one HTML page: figures, charts, failures, every row")
    add_file(
        parser, "results", nargs="+", complete=complete, metavar="RESULTS", help="the -o of the batch, or of several"
    )
    add_file(parser, "-o", "--output", complete=complete, metavar="FILE", required=True, help="the .html to write")
    add_json(parser)


def run(given: Mapping[str, Any], whole: Callable[..., Parser]) -> int:
    from dify_batch.reports.html.report import write_report
    from dify_batch.seams import RealClock

    outputs = [Path(name) for name in given["results"]]
    written = write_report(outputs, Path(given["output"]), now=RealClock().wall())
    return show(written, machine="json" in given)
