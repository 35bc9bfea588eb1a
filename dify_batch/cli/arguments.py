"""The argparse parser of the whole command line: the batch's flags out of their table, and the commands.

A command is a module of `cli/` with `NAME`, `USAGE`, `add_parser` and `run`, and stands in COMMANDS. It imports what
it needs inside `run`, since every `--help` pays for what stands at its top.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from dify_batch.cli import (
    answer,
    auth,
    completion,
    describe,
    diff,
    export,
    form,
    get,
    help,
    merge,
    report,
    resume,
    run,
    status,
    stop,
    template,
    try_row,
)  # fmt: skip
from dify_batch.cli.parser import Parser, Subparsers, add_flag
from dify_batch.flags import FLAGS, GROUPS


class Command(Protocol):
    """What the module of a command offers.

    `USAGE`: its line in `dify-batch --help`, without the program's name.
    """

    NAME: str
    USAGE: str

    def add_parser(self, commands: Subparsers, *, complete: bool) -> None:
        """Adds the command's parser; `complete`: with what shtab needs (see build_parser)."""

    def run(self, given: Mapping[str, Any], whole: Callable[..., Parser]) -> int:
        """Runs the command on what was typed (dest → value) and gives the exit status.

        `whole` is `build_parser`, for the few commands that speak of all the others.
        """


_ALL: tuple[Command, ...] = (
    form, template, try_row, status, answer, stop, export, merge, report, diff,
    auth, get, describe, run, resume, help, completion,
)  # fmt: skip
COMMANDS: Mapping[str, Command] = {command.NAME: command for command in _ALL}
"""The commands beside the batch itself, in the order in which help shows them."""


def parse(arguments: Sequence[str]) -> dict[str, Any]:
    """What was typed: dest → text, bool or count, and "command" where there is one.

    Raises UsageError; SystemExit once --help or --version has been printed.
    """
    parser = build_parser()
    for word in arguments:
        if word == "--" or word in COMMANDS:  # a command has flags of its own
            break
        # argparse would complain of the misspelt flag's value first, as of an unknown command.
        if word.startswith("--") and word.split("=")[0] not in parser._option_string_actions:
            parser.error(f"unrecognized arguments: {word}")
    return vars(parser.parse_args(arguments))


USAGE = "\n       ".join(
    f"dify-batch {line}" for line in ("-i data.csv -o results.jsonl [options]", *(each.USAGE for each in _ALL))
)


def build_parser(*, complete: bool = False) -> Parser:
    """The parser of the whole command line. Only what was typed is in its namespace; values stay text.

    `complete` adds what shtab needs: choices, and which values are files. In a plain parser `Flag.read`
    checks choices, so that a wrong one is told in the same words wherever it came from.
    """
    from dify_batch._version import __version__

    parser = Parser(
        prog="dify-batch",
        usage=USAGE,
        description="Send each row of a CSV to a Dify workflow: nothing lost, nothing run twice.",
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,  # "--max" must not mean one thing today and another after an update
        add_help=False,
    )
    groups = {name: parser.add_argument_group(name) for name in GROUPS}
    for flag in FLAGS:
        if flag.names:
            add_flag(groups[flag.group], flag, __version__, complete=complete)
    commands = parser.add_subparsers(title="Commands", dest="command", metavar="COMMAND", parser_class=Parser)
    for command in _ALL:
        command.add_parser(commands, complete=complete)
    return parser


def _epilog() -> str:
    only = [flag for flag in FLAGS if flag.env and not flag.names]
    lines = [f"  {flag.env:<20}  {flag.help} ({flag.shown})" for flag in only]
    return "\n".join(
        [
            "Settings without a flag, from the environment or .env:",
            *lines,
            "",
            "Exit status: 0 all done; 1 rows failed, or an error; 2 invalid input, nothing was sent;",
            "4 authentication; 7 rate limits; 75 not finished, run it again; 130, 143 stopped by a signal.",
        ]
    )
