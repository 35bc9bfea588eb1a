"""Writes what the documents take from the code: tables of flags, commands, statuses and codes, and `.env.example`.

    uv run python docs/generate.py

A page holds `<!-- NAME -->`, the table, `<!-- /NAME -->`. A test compares; nobody edits between the markers.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

from dify_batch.cli.arguments import COMMANDS, build_parser
from dify_batch.errors import EXIT_OF_CODE
from dify_batch.flags import BY_ENV, FLAGS, GROUPS, HELP
from dify_batch.flagwords import shown_default

ROOT = Path(__file__).parent.parent
MANUAL = ROOT / "docs" / "manual"
AGENTS = ROOT / "dify_batch" / "cli" / "agents.md"
"""The page for programs and agents, where `dify-batch help agents` finds it."""


def pages() -> list[Path]:
    """Every page whose tables come from the code."""
    return [ROOT / "README.md", *sorted(MANUAL.rglob("*.md"))]


def flag_tables() -> str:
    """The tables of flags and settings, one a group."""
    lines: list[str] = []
    for group in GROUPS:
        lines += [f"**{group}**", "", "| flag | setting | default | meaning |", "|---|---|---|---|"]
        for flag in (flag for flag in FLAGS if flag.group == group):
            names = ", ".join(flag.names) + (f" {flag.metavar}" if flag.names and flag.metavar else "")
            meaning = f"{flag.help[0].upper()}{flag.help[1:]}. {flag.doc}".strip()
            cells = (
                f"`{names}`" if names else "",
                f"`{flag.env}`" if flag.env else "",
                shown_default(flag),
                meaning,
            )
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def env_example() -> str:
    """`.env.example`: each variable with what it means; all but the key as comments that show the default."""
    lines = [
        "# Settings of dify-batch. Copy this file to .env, fill in the key, and type: chmod 600 .env",
        "# A flag goes before the environment, and the environment before this file.",
    ]
    order = sorted(BY_ENV.values(), key=lambda flag: GROUPS.index(flag.group) if flag.group != HELP else -1)
    for flag in order:
        lines += ["", *_comment(f"{flag.help[0].upper()}{flag.help[1:]}. {flag.doc}")]
        if flag.dest == "api_key":
            lines.append(f"{flag.env}=")
        else:
            lines.append(f"# {flag.env}={flag.shown if flag.default is not None or flag.shown == 'auto' else ''}")
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, width=100, initial_indent="# ", subsequent_indent="# ")


def commands_table() -> str:
    """Each command with its own usage and what it does."""
    (choices,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    said = {action.dest: action.help or "" for action in choices._choices_actions}
    lines = ["| command | what it does |", "|---|---|"]
    for name, command in COMMANDS.items():
        usage = command.USAGE.replace("|", "\\|")
        what = said[name].replace("|", "\\|")
        lines.append(f"| `dify-batch {usage}` | {what[0].upper()}{what[1:]} |")
    return "\n".join(lines) + "\n"


def codes_table() -> str:
    """Each error code with its exit status and a link to its entry."""
    lines = ["| `error.code` | exit status |", "|---|---|"]
    lines += [f"| [`{code}`](troubleshooting.md#{code}) | {int(status)} |" for code, status in EXIT_OF_CODE.items()]
    return "\n".join(lines) + "\n"


TABLES: Mapping[str, Callable[[], str]] = {
    "flags": flag_tables,
    "commands": commands_table,
    "codes": codes_table,
}


def fill(text: str) -> str:
    """`text` with each of its tables as the code has it today."""
    for name, table in TABLES.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        text = re.sub(pattern, lambda found, table=table: found[1] + table() + found[2], text, flags=re.DOTALL)  # type: ignore[misc]
    return text


def agents() -> str:
    """What AGENTS holds: the page of the manual."""
    return (MANUAL / "agents.md").read_text(encoding="utf-8")


def main() -> None:
    for page in pages():
        old = page.read_text(encoding="utf-8")
        if (new := fill(old)) != old:
            page.write_text(new, encoding="utf-8")
            print(page.relative_to(ROOT))
    AGENTS.write_text(agents(), encoding="utf-8")
    (ROOT / ".env.example").write_text(env_example(), encoding="utf-8")


if __name__ == "__main__":
    main()
