"""`dify-batch help`: every command, flag, exit status and error code, for people and for programs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import Any

from dify_batch.cli.channels import write
from dify_batch.cli.output import check_format, present
from dify_batch.cli.parser import Parser, Subparsers, add_command
from dify_batch.errors import EXIT_OF_CODE, Exit, UsageError

NAME = "help"
USAGE = "help [agents] [-o json]"
FORMATS = ("text", "json", "yaml")

BATCH_EFFECT = "write"
"""Of the batch itself, which is no command: it runs an app."""

_STATUS = {
    Exit.OK: "all done, a pause included",
    Exit.FAILED: "rows or the run failed, or an error",
    Exit.USAGE: "the call is wrong; nothing was sent",
    Exit.AUTH: "not signed in, or refused",
    Exit.VERSION: "the server or a file is of another version",
    Exit.RATE_LIMITED: "rate limited",
    Exit.UNFINISHED: "not finished, nothing is wrong: run it again",
    Exit.SIGINT: "stopped by SIGINT",
    Exit.SIGTERM: "stopped by SIGTERM",
}


def add_parser(commands: Subparsers, *, complete: bool) -> None:
    parser = add_command(commands, NAME, "every command, flag, exit status and error code")
    parser.add_argument("topic", nargs="?", metavar="agents", help="agents: how programs and agents call it")
    parser.add_argument("-o", "--output", dest="format", metavar="FORMAT", help=", ".join(FORMATS))


def run(given: Mapping[str, Any], whole: Callable[..., Parser]) -> int:
    topic = given.get("topic")
    if topic not in (None, "agents"):  # argparse's `choices` would refuse the topic that was not given, too
        raise UsageError(f'help: there is no page "{topic}"', code="usage_invalid_flag", hint="dify-batch help agents")
    if topic == "agents":
        from importlib.resources import files

        write(sys.stdout, files("dify_batch.cli").joinpath("agents.md").read_text(encoding="utf-8"))
        return Exit.OK
    present(Help(whole()), check_format(given, FORMATS))
    return Exit.OK


class Help:
    """The whole command line, out of its parser."""

    def __init__(self, parser: Parser) -> None:
        self._parser = parser

    def data(self) -> Any:
        from dify_batch._version import __version__

        commands = [command("", self._parser)]
        for name, parser in subcommands(self._parser).items():
            below = subcommands(parser)
            commands += [command(f"{name} {verb}", each) for verb, each in below.items()] or [command(name, parser)]
        return {
            "name": "dify-batch",
            "version": __version__,
            "commands": commands,
            "exit_statuses": {str(int(status)): text for status, text in _STATUS.items()},
            "error_codes": {code: int(status) for code, status in EXIT_OF_CODE.items()},
        }

    def text(self, width: int) -> str:
        found = self.data()
        lines = [
            f"{each['command'] or 'dify-batch':<32} {each['effect']:<12} {each['about']}" for each in found["commands"]
        ]
        lines += ["", "Exit statuses:"]
        lines += [f"  {status:>3}  {text}" for status, text in found["exit_statuses"].items()]
        return "\n".join([*lines, "", "The flags: dify-batch COMMAND --help. For programs: dify-batch help -o json"])


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Name → parser of what stands below a parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def command(name: str, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """One command with its arguments and flags."""
    arguments, flags = [], []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction) or action.dest == "help":
            continue
        entry: dict[str, Any] = {"help": action.help, "required": action.required, "value": action.metavar}
        if action.option_strings:
            flags.append({"names": list(action.option_strings), **entry, "repeatable": _repeats(action)})
        else:
            arguments.append({"name": action.metavar or action.dest, **entry})
    about = parser.description or ""
    effect = getattr(parser, "effect", "read") if name else BATCH_EFFECT
    return {"command": name, "about": about, "effect": effect, "arguments": arguments, "flags": flags}


def _repeats(action: argparse.Action) -> bool:
    return isinstance(action, argparse._AppendAction) or action.nargs in ("+", "*")
