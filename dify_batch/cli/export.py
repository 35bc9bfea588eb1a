"""`dify-batch export`: results as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dify_batch.cli.channels import show
from dify_batch.cli.parser import Parser, Subparsers, add_command, add_file, add_json, add_results

NAME = "export"
USAGE = "export results.jsonl -o FILE [--failed] [--force] [--json]"


def add_parser(commands: Subparsers, *, complete: bool) -> None:
    parser = add_command(commands, NAME, "RESULTS as a table: .csv, .xlsx, .parquet or .db (SQLite)", "write")
    add_results(parser, complete=complete)
    add_file(parser, "-o", "--output", complete=complete, metavar="FILE", required=True, help="the file to write")
    parser.add_argument(
        "--failed", action="store_true", help="the rows without a result, with their inputs; also as .jsonl"
    )
    add_file(
        parser, "--input", complete=complete, metavar="PATH", help="with --failed: the input, where it has been moved"
    )
    parser.add_argument("--force", action="store_true", help="replace FILE although no export wrote it")
    add_json(parser)


def run(given: Mapping[str, Any], whole: Callable[..., Parser]) -> int:
    from dify_batch.reports.export import export

    report = export(
        Path(given["results"]),
        Path(given["output"]),
        failed="failed" in given,
        source=given.get("input"),
        force="force" in given,
    )
    return show(report, machine="json" in given)
