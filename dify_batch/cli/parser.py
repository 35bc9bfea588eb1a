"""What each command's parser is made of. Nothing here prints: what argparse would say becomes a UsageError."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any, Literal, NoReturn, TypeAlias

from dify_batch.errors import UsageError
from dify_batch.flags import Flag
from dify_batch.text import nearest

Effect = Literal["read", "write", "destructive"]


class Parser(argparse.ArgumentParser):
    """Raises UsageError, with the nearest flag as a hint, where argparse would print and exit.

    `effect`: what the command does to what is outside it; `help -o json` tells it.
    """

    effect: Effect = "read"

    def error(self, message: str) -> NoReturn:
        raise usage_error(message, [*self._option_string_actions])


def usage_error(message: str, known: Sequence[str]) -> UsageError:
    """argparse's message as a UsageError: what is wrong, and what was probably meant."""
    hint = "see `dify-batch --help`"
    missing = re.search(r"are required: (.*)", message)
    if missing:
        return UsageError(f"{missing[1]} is missing", code="usage_missing_arg", hint=hint)
    no_value = re.match(r"argument ([^:]+): expected one argument", message)
    if no_value:
        name = no_value[1].split("/")[-1]
        hint = f"a value that begins with - is written {name}=-..."
        return UsageError(f"{no_value[1]} needs a value after it", code="usage_missing_arg", hint=hint)
    unknown = re.match(r"unrecognized arguments: (.*)", message)
    if unknown:
        first = unknown[1].split()[0].split("=")[0]
        if first in known:  # left over by a command
            message = f"{first} is an option of the batch; this command does not have it"
            return UsageError(message, code="usage_invalid_flag", hint=hint)
        plain = {name.lstrip("-"): name for name in known}  # the dashes, which all have, would make any two alike
        near = nearest(first.lstrip("-"), plain)
        hint = f"did you mean {plain[near]}?" if near else hint
        return UsageError(f"unknown: {unknown[1]}", code="usage_invalid_flag", hint=hint)
    stray = re.match(r"argument COMMAND: invalid choice: '(.*)' \(choose from (.*)\)", message)
    if stray:
        commands = re.findall(r"[\w-]+", stray[2])
        hint = f"the input is given with -i: dify-batch -i {stray[1]} -o results.jsonl"
        return UsageError(f'"{stray[1]}" is no command ({", ".join(commands)})', code="usage_invalid_flag", hint=hint)
    return UsageError(message, code="usage_invalid_flag", hint=hint)


FILE = {
    "bash": "_shtab_compgen_files",
    "zsh": "_files",
    "tcsh": "f",
}  # shtab.FILE, spelt out to import it later


def add_flag(group: argparse._ActionsContainer, flag: Flag, version: str, *, complete: bool) -> None:
    """One flag of the table as an argparse action."""
    text = flag.help.replace("%", "%%")
    if flag.action == "help":
        group.add_argument(*flag.names, action="help", help=text)
    elif flag.action == "version":
        group.add_argument(*flag.names, action="version", version=f"dify-batch {version}", help=text)
    elif flag.action == "count":
        group.add_argument(*flag.names, dest=flag.dest, action="count", help=text)
    elif flag.action in ("value", "list"):
        notes = [f"default {flag.shown}"] if flag.shown else ["required"] if flag.required else []
        notes += [flag.env] if flag.env else []
        full = text + (f" ({'; '.join(notes)})".replace("%", "%%") if notes else "")
        how = "append" if flag.action == "list" else "store"
        action = group.add_argument(*flag.names, dest=flag.dest, metavar=flag.metavar, help=full, action=how)
        if complete and flag.choices:
            action.choices = flag.choices
        if complete and flag.metavar in ("PATH", "FILE"):
            action.complete = FILE  # type: ignore[attr-defined]
    else:
        group.add_argument(*flag.names, dest=flag.dest, action="store_const", const=flag.action == "on", help=text)


Subparsers: TypeAlias = "argparse._SubParsersAction[Parser]"


def add_command(commands: Subparsers, name: str, what: str, effect: Effect = "read") -> Parser:
    """The parser of one command, with what it does in `what`: a phrase without a full stop."""
    parser = commands.add_parser(
        name, help=what, description=what[0].upper() + what[1:] + ".", argument_default=argparse.SUPPRESS
    )
    parser.effect = effect
    return parser


def add_file(parser: argparse._ActionsContainer, *names: str, complete: bool, **options: Any) -> None:
    """An argument that is a file, for shtab too."""
    action = parser.add_argument(*names, **options)
    if complete:
        action.complete = FILE  # type: ignore[attr-defined]


def add_results(parser: Parser, *, complete: bool) -> None:
    """The RESULTS that a command reads."""
    add_file(parser, "results", complete=complete, metavar="RESULTS", help="the -o of the batch")


def add_json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="machine output")
