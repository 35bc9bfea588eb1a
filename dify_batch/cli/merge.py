"""`dify-batch merge`: the parts of a batch as one file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dify_batch.cli.channels import show
from dify_batch.cli.parser import Parser, Subparsers, add_command, add_file, add_json
from dify_batch.errors import UsageError

NAME = "merge"
USAGE = "merge results.jsonl -o FILE [--keep-order] [--force] [--json]"


def add_parser(commands: Subparsers, *, complete: bool) -> None:
    parser = add_command(commands, NAME, "the results of all parts of RESULTS (see --shard) as one file", "write")
    add_file(parser, "results", complete=complete, metavar="RESULTS", help="the -o of the batch, as with --shard")
    add_file(parser, "-o", "--output", complete=complete, metavar="FILE", required=True, help="the .jsonl to write")
    parser.add_argument("--keep-order", action="store_true", help="in the order of the input")
    add_file(
        parser,
        "--input",
        complete=complete,
        metavar="PATH",
        help="with --keep-order: the input, where it has been moved",
    )
    parser.add_argument("--allow-other-app", action="store_true", help="also where the parts are of several apps")
    parser.add_argument("--no-bom", action="store_true", help="without a byte-order mark")
    parser.add_argument("--force", action="store_true", help="replace FILE")
    add_json(parser)


def run(given: Mapping[str, Any], whole: Callable[..., Parser]) -> int:
    from dify_batch.scale.merge import merge

    if "input" in given and "keep_order" not in given:
        raise UsageError(
            "--input says in which order, and --keep-order is not given",
            hint="add --keep-order, or leave --input out",
            code="usage_invalid_flag",
        )
    report = merge(
        Path(given["results"]),
        Path(given["output"]),
        keep_order="keep_order" in given,
        source=given.get("input"),
        allow_other_app="allow_other_app" in given,
        force="force" in given,
        bom="no_bom" not in given,
    )
    return show(report, machine="json" in given)
