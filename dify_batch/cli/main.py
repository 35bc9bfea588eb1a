"""The command: one word decides which module runs, and every error becomes an exit status."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise

from dify_batch.cli import batch
from dify_batch.cli.arguments import COMMANDS, build_parser, parse
from dify_batch.cli.channels import fail, unexpected, write
from dify_batch.errors import DifyBatchError, Exit

SHORT_USAGE = """\
usage: dify-batch -i data.csv -o results.jsonl [options]

Sends each row of a CSV to a Dify workflow and appends each answer to a JSONL.
To see it work, without an account:

  printf 'id,query\\n1,What is Dify?\\n' | dify-batch --demo -i - -o demo.jsonl

All options: dify-batch --help
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (sys.argv[1:] if left out) and returns its exit status; raises nothing."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a name that the terminal's encoding lacks must not end the command
            stream.reconfigure(errors="backslashreplace")
    machine = _wants_machine(arguments)
    try:
        if not arguments:
            write(sys.stderr, SHORT_USAGE)
            return Exit.USAGE
        return _dispatch(arguments)
    except DifyBatchError as error:
        return fail(error, machine=machine)
    except KeyboardInterrupt:
        return fail(DifyBatchError("interrupted", code="interrupted"), machine=machine)
    except Exception as error:  # noqa: BLE001 - the promise is that no traceback ever reaches a person
        return fail(unexpected(error), machine=machine)


def _wants_machine(arguments: Sequence[str]) -> bool:
    """Whether errors are told as JSON, as far as it can be seen before the flags are read."""
    formats = ("json", "yaml")
    asked = any(flag in ("-o", "--output") and value in formats for flag, value in pairwise(arguments))
    joined = any(word in (f"-o{each}", f"-o={each}", f"--output={each}") for word in arguments for each in formats)
    return "--json" in arguments or asked or joined


def _dispatch(arguments: list[str]) -> int:
    try:
        given = parse(arguments)
    except SystemExit as end:  # argparse has printed --help or --version
        write(sys.stdout, "")
        return int(end.code or 0)
    command = given.pop("command", None)
    return batch.run(given) if command is None else COMMANDS[command].run(given, build_parser)
