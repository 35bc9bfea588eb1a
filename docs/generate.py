"""Writes what the documents take from the code: tables of flags, commands, statuses and codes, and `.env.example`.

    uv run python docs/generate.py

A page holds `<!-- NAME -->`, the table, `<!-- /NAME -->`. A test compares; nobody edits between the markers.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from dify_batch.cli.arguments import COMMANDS, build_parser
from dify_batch.errors import EXIT_OF_CODE
from dify_batch.flags import env_example, readme_table

ROOT = Path(__file__).parent.parent
MANUAL = ROOT / "docs" / "manual"
AGENTS = ROOT / "dify_batch" / "cli" / "agents.md"
"""The page for programs and agents, where `dify-batch help agents` finds it."""


def pages() -> list[Path]:
    """Every page whose tables come from the code."""
    return [ROOT / "README.md", *sorted(MANUAL.rglob("*.md"))]


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
    "flags": readme_table,
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
