"""`dify-batch completion`: completion for the shell."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from dify_batch.cli.channels import write
from dify_batch.cli.parser import Parser, Subparsers, add_command
from dify_batch.errors import Exit

NAME = "completion"
SHELLS = ("bash", "zsh", "tcsh")
USAGE = f"completion {'|'.join(SHELLS)}"


def add_parser(commands: Subparsers, *, complete: bool) -> None:
    parser = add_command(commands, NAME, "shell completion, to be sourced")
    parser.add_argument("shell", metavar="|".join(SHELLS), choices=SHELLS)


def run(given: Mapping[str, Any], whole: Callable[..., Parser]) -> int:
    import shtab

    write(sys.stdout, shtab.complete(whole(complete=True), given["shell"]) + "\n")
    return Exit.OK
