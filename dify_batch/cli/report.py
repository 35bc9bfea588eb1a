"""`dify-batch report`: what came of one or several outputs, as one HTML file, or live."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dify_batch.cli.channels import show, write
from dify_batch.cli.parser import Parser, Subparsers, add_command, add_file, add_json
from dify_batch.errors import Exit, UsageError

NAME = "report"
USAGE = "report results.jsonl... -o report.html|--live [--json]"


def add_parser(commands: Subparsers, *, complete: bool) -> None:
    parser = add_command(commands, NAME, "RESULTS as one HTML page: figures, charts, failures, every row", "write")
    add_file(
        parser, "results", nargs="+", complete=complete, metavar="RESULTS", help="the -o of the batch, or of several"
    )
    add_file(parser, "-o", "--output", complete=complete, metavar="FILE", help="the .html to write")
    parser.add_argument(
        "--live", action="store_true", help="serve it to browsers of this machine while the batch goes on"
    )
    parser.add_argument("--port", metavar="N", help="with --live: the port (any that is free)")
    parser.add_argument("--host", metavar="ADDRESS", help="with --live: where to be reached (127.0.0.1)")
    add_json(parser)


def run(given: Mapping[str, Any], whole: Callable[..., Parser]) -> int:
    outputs = [Path(name) for name in given["results"]]
    if "live" in given:
        return _live(outputs, given)
    for name in ("port", "host"):
        if name in given:
            raise UsageError(
                f"--{name} is of no use without --live", hint="add --live, or leave it out", code="usage_invalid_flag"
            )
    if "output" not in given:
        raise UsageError(
            "-o/--output is missing", code="usage_missing_arg", hint="give -o report.html, or --live to watch a batch"
        )
    from dify_batch.reports.html.report import write_report
    from dify_batch.seams import RealClock

    written = write_report(outputs, Path(given["output"]), now=RealClock().wall())
    return show(written, machine="json" in given)


def _live(outputs: Sequence[Path], given: Mapping[str, Any]) -> int:
    if "output" in given:
        raise UsageError(
            "-o and --live contradict each other: one writes a file, the other serves a page",
            hint="leave one out",
            code="usage_invalid_flag",
        )
    import asyncio

    from dify_batch.reports.live.server import LOOPBACK, serve
    from dify_batch.seams import Seams

    host = given.get("host", LOOPBACK)

    def ready(address: str) -> None:
        write(sys.stdout, address + "\n")
        if "json" not in given:
            beyond = "" if host == LOOPBACK else "; whoever can reach this machine and knows the address can read it"
            write(sys.stderr, f"open this address in a browser; Ctrl-C ends it{beyond}\n")

    try:
        asyncio.run(serve(outputs, Seams(), host=host, port=_port(given.get("port", "0")), ready=ready))
    except KeyboardInterrupt:
        return Exit.OK  # the one way to end it
    return Exit.OK


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise UsageError(f'--port: "{text}" is not a port from 0 to 65535', code="usage_invalid_flag")
    return int(text)
