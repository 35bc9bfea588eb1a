"""The argparse parser made from the table of flags, and the checks of the three settings that address Dify.

Nothing here prints: a wrong call is a UsageError, and what argparse says becomes one.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn
from urllib.parse import urlsplit

from dify_batch.errors import AuthError, UsageError
from dify_batch.flags import DEFAULT_BASE_URL, FLAGS, GROUPS, Flag
from dify_batch.text import nearest

# What people leave in place of a value. A real key is app- and letters and digits, so "app-your-..." is none.
_PLACEHOLDER = re.compile(
    r"(app-?)?(x{3,}|\*+|\.{2,}|…+|<.*>|\{.*\}|\[.*\])?|(app-)?your[-_ ].*"
    r"|(app-)?(change[-_ ]?me|placeholder|todo)|[x0]{8}(-[x0]{4}){3}-[x0]{12}",
    re.IGNORECASE,
)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_KEY_HINT = "put the app's key (in Dify: API Access, API Key) into .env as DIFY_API_KEY=app-..., or try --demo"


def check_key(key: str) -> None:
    """Errors here never show any part of the key."""
    if not key:
        raise AuthError("no API key: DIFY_API_KEY is not set", code="not_logged_in", hint=_KEY_HINT)
    if _PLACEHOLDER.fullmatch(key):
        raise UsageError("DIFY_API_KEY is still a placeholder, not a key", hint=_KEY_HINT)
    fault = None
    if key.lower().startswith("bearer "):
        fault = 'begins with "Bearer", which does not belong to it'
    elif re.search(r"[\r\n]", key):
        fault = "contains a line break"
    elif re.search(r"\s", key):
        fault = "contains a blank"
    elif re.search("[\"'`“”‘’]", key):
        fault = "contains a quote"
    elif not key.isascii() or not key.isprintable():
        fault = "contains a character that no key has (not ASCII)"
    elif key.startswith("dataset-"):
        fault = "is a key of a knowledge base; a workflow app's begins with app-"
    elif key.startswith(("dfoa_", "dfoe_")):
        fault = "is an account token, which /v1 does not accept; an app's key begins with app-"
    if fault:
        raise UsageError(f"DIFY_API_KEY {fault}. (Its value is not shown.)", hint=_KEY_HINT)


def check_workflow_id(value: str | None) -> None:
    if value is None:
        return
    hint = "leave DIFY_WORKFLOW_ID empty to run the published version"
    if value.startswith("app-") and not _PLACEHOLDER.fullmatch(value):
        raise UsageError("DIFY_WORKFLOW_ID holds an API key. (Its value is not shown.)", hint=hint)
    if _PLACEHOLDER.fullmatch(value):
        raise UsageError(f'DIFY_WORKFLOW_ID: "{value}" is still a placeholder', hint=hint)
    if not _UUID.fullmatch(value):
        allowed = "a UUID such as 3b1f0d4e-7c2a-4e57-9f0b-2d6c8a1e5f90"
        raise UsageError(f'DIFY_WORKFLOW_ID: "{value}" is not {allowed}', hint=hint)


def mask_url(url: str) -> str:
    """The URL without the user and password in it; for everything that is shown."""
    return re.sub(r"(?<=//)[^/?#\s]*@", "***@", url)


_CALLS = re.compile(
    r"/(workflows|chat-messages|completion-messages|parameters|info|site|meta|files|datasets|workflow|messages)(/.*)?$"
)
_CONSOLE = re.compile(r"/(apps?|workflow|chat|completion|chatbot|signin|install|explore|datasets|console)(/.*)?$")


def read_base_url(text: str) -> tuple[str, str | None]:
    """The base URL without trailing slashes, ending in /v1, and a note where /v1 was added.

    Raises UsageError for what cannot be the address of Dify's API, with what was probably meant.
    """
    url = text.strip()
    shown = mask_url(url) if "://" in url else mask_url("//" + url)[2:]

    def wrong(what: str, meant: str | None = None) -> NoReturn:
        cure = f"probably meant: DIFY_API_BASE_URL={meant}" if meant else f"it looks like {DEFAULT_BASE_URL}"
        raise UsageError(f'DIFY_API_BASE_URL: "{shown}" {what}', hint=cure)

    if re.search(r"[\s\"'<>\x00-\x1f]", url):
        wrong("contains a blank, a quote or a bracket")
    scheme, sep, rest = url.partition("://")
    if not sep:
        if re.match(r"https?[:/]", url, re.IGNORECASE):
            wrong("is not a URL: after http or https comes ://")
        local = re.match(r"(localhost|127\.|10\.|192\.168\.|172\.|[^/.]+(:\d+)?(/|$))", url)
        tail = url.rstrip("/")
        meant = f"{'http' if local else 'https'}://{mask_url('//' + tail)[2:]}"
        wrong("has no scheme (http:// or https://)", meant if "/" in tail else f"{meant}/v1")
    if scheme.lower() not in ("http", "https"):
        wrong(f'begins with "{scheme}://"; only http:// and https:// are possible')
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        wrong("has a host or port that cannot be read")
    if not host:
        wrong("has no host")
    if "?" in rest or "#" in rest:
        wrong(
            "has a query or fragment (? or #), which a base URL cannot have",
            shown.split("?")[0].split("#")[0],
        )
    root = f"{scheme.lower()}://{parts.netloc}"
    path = re.sub(r"/+$", "", parts.path)
    if host in ("cloud.dify.ai", "dify.ai", "www.dify.ai", "udify.app"):
        wrong("is a page of Dify, not its API", DEFAULT_BASE_URL)
    if path.endswith("/v1/v1"):
        wrong("ends in /v1 twice", mask_url(root + path[: -len("/v1")]))
    if path.endswith("/openapi/v1"):
        wrong("is the account API, which takes no app key", mask_url(root + path[: -len("/openapi/v1")] + "/v1"))
    before, v1, call = path.partition("/v1/")
    if v1 and _CALLS.match("/" + call):
        wrong("is the address of one call, not the base of all", mask_url(f"{root}{before}/v1"))
    if not path.endswith("/v1") and _CONSOLE.match(path):
        wrong("is a page of Dify's console, not its API", mask_url(f"{root}/v1"))
    if not path:
        note = f"DIFY_API_BASE_URL has no path; {mask_url(root)}/v1 is used. Write it so to be rid of this note."
        return f"{root}/v1", note
    if not path.endswith("/v1"):
        return root + path, f'DIFY_API_BASE_URL: "{shown}" does not end in /v1; it is used as it is.'
    return root + path, None


class Parser(argparse.ArgumentParser):
    """Raises UsageError, with the nearest flag as a hint, where argparse would print and exit."""

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
    stray = re.match(r"argument COMMAND: invalid choice: '(.*)' \(", message)
    if stray:
        hint = f"the input is given with -i: dify-batch -i {stray[1]} -o results.jsonl"
        return UsageError(f'"{stray[1]}" is no command ({", ".join(COMMANDS)})', code="usage_invalid_flag", hint=hint)
    return UsageError(message, code="usage_invalid_flag", hint=hint)


def parse(arguments: Sequence[str]) -> dict[str, Any]:
    """What was typed: dest → text, bool or count, and "command" where there is one.

    Raises UsageError; SystemExit once --help or --version has been printed.
    """
    parser = build_parser()
    for word in arguments:
        if word == "--":
            break
        # argparse would complain of the misspelt flag's value first, as of an unknown command.
        if word.startswith("--") and word.split("=")[0] not in parser._option_string_actions:
            parser.error(f"unrecognized arguments: {word}")
    return vars(parser.parse_args(arguments))


COMMANDS = ("status", "export", "completion")
SHELLS = ("bash", "zsh", "tcsh")
USAGE = """\
dify-batch -i data.csv -o results.jsonl [options]
       dify-batch status results.jsonl [--json]
       dify-batch export results.jsonl -o FILE [--json]
       dify-batch completion bash|zsh|tcsh"""


def build_parser(*, completion: bool = False) -> Parser:
    """The parser of the whole command line. Only what was typed is in its namespace; values stay text.

    `completion` adds what shtab needs: choices, and which values are files. In a plain parser `Flag.read`
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
            add_flag(groups[flag.group], flag, __version__, completion=completion)
    commands = parser.add_subparsers(title="Commands", dest="command", metavar="COMMAND", parser_class=Parser)
    for name, what in (
        ("status", "what became of the rows of RESULTS"),
        ("export", "RESULTS as a table: .csv or .xlsx"),
        ("completion", "shell completion, to be sourced"),
    ):
        command = commands.add_parser(
            name, help=what, description=what[0].upper() + what[1:] + ".", argument_default=argparse.SUPPRESS
        )
        if name == "completion":
            command.add_argument("shell", metavar="|".join(SHELLS), choices=SHELLS)
            continue
        results = command.add_argument("results", metavar="RESULTS", help="the -o of the batch")
        if completion:
            results.complete = _FILE  # type: ignore[attr-defined]
        if name == "export":
            target = command.add_argument("-o", "--output", metavar="FILE", required=True, help="the file to write")
            if completion:
                target.complete = _FILE  # type: ignore[attr-defined]
        command.add_argument("--json", action="store_true", help="machine output")
    return parser


_FILE = {
    "bash": "_shtab_compgen_files",
    "zsh": "_files",
    "tcsh": "f",
}  # shtab.FILE, spelt out to import it later


def add_flag(group: argparse._ActionsContainer, flag: Flag, version: str, *, completion: bool) -> None:
    """One flag of the table as an argparse action."""
    text = flag.help.replace("%", "%%")
    if flag.action == "help":
        group.add_argument(*flag.names, action="help", help=text)
    elif flag.action == "version":
        group.add_argument(*flag.names, action="version", version=f"dify-batch {version}", help=text)
    elif flag.action == "count":
        group.add_argument(*flag.names, dest=flag.dest, action="count", help=text)
    elif flag.action == "value":
        notes = [f"default {flag.shown}"] if flag.shown else ["required"] if flag.required else []
        notes += [flag.env] if flag.env else []
        full = text + (f" ({'; '.join(notes)})".replace("%", "%%") if notes else "")
        action = group.add_argument(*flag.names, dest=flag.dest, metavar=flag.metavar, help=full)
        if completion and flag.choices:
            action.choices = flag.choices
        if completion and flag.metavar == "PATH":
            action.complete = _FILE  # type: ignore[attr-defined]
    else:
        group.add_argument(*flag.names, dest=flag.dest, action="store_const", const=flag.action == "on", help=text)


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
