"""`dify-batch diff`: two versions of a workflow on the same rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dify_batch.cli.channels import show
from dify_batch.cli.parser import Parser, Subparsers, add_command, add_file, add_json
from dify_batch.errors import UsageError

NAME = "diff"
USAGE = "diff a.jsonl b.jsonl [-o FILE] [--tolerance X] [--json]"


def add_parser(commands: Subparsers, *, complete: bool) -> None:
    parser = add_command(
        commands, NAME, "two RESULTS of the same rows compared; exit 0 the same, 1 different, 2 not comparable"
    )
    for name in ("a", "b"):
        add_file(parser, name, complete=complete, metavar=name.upper(), help="the -o of a batch")
    add_file(parser, "-o", "--output", complete=complete, metavar="FILE", help="write them side by side as .html")
    parser.add_argument("--tolerance", metavar="X", help="numbers that are at most X apart count as the same")
    add_json(parser)


def run(given: Mapping[str, Any], whole: Callable[..., Parser]) -> int:
    from dify_batch.reports.diff.report import diff
    from dify_batch.seams import RealClock

    found = diff(
        Path(given["a"]),
        Path(given["b"]),
        tolerance=_tolerance(given.get("tolerance", "0")),
        target=Path(given["output"]) if "output" in given else None,
        now=RealClock().wall(),
    )
    show(found, machine="json" in given)
    return found.exit_status


def _tolerance(text: str) -> float:
    from dify_batch.flagvalues import parse_seconds

    try:
        return parse_seconds(text)
    except ValueError:
        raise UsageError(
            f'--tolerance: "{text}" is not a number of at least 0, such as 0.01', code="usage_invalid_flag"
        ) from None
