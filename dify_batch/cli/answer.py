"""`dify-batch answer`: the forms that paused rows wait with, answered one by one or from a table."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dify_batch.cli.channels import write
from dify_batch.cli.connection import last_call
from dify_batch.cli.parser import Parser, Subparsers, add_command, add_file, add_results

if TYPE_CHECKING:
    from dify_batch.batch.answering import Asked, Waiting
    from dify_batch.settings import Settings

NAME = "answer"
USAGE = "answer results.jsonl [--from answers.csv] [--template FILE] [--env-file PATH]"


def add_parser(commands: Subparsers, *, complete: bool) -> None:
    parser = add_command(commands, NAME, "answers the forms of paused rows, and collects their results", "write")
    add_results(parser, complete=complete)
    one = parser.add_mutually_exclusive_group()
    add_file(
        one, "--from", dest="source", complete=complete, metavar="FILE", help="a table: id, action, a column an input"
    )
    add_file(one, "--template", complete=complete, metavar="FILE", help="write that table (.csv), to be filled")
    add_file(
        parser, "--env-file", complete=complete, metavar="PATH", help="read settings from this file (default .env)"
    )


def run(given: Mapping[str, Any], whole: Callable[..., Parser]) -> int:
    import asyncio

    from dify_batch.cli import batch
    from dify_batch.errors import Exit, UsageError
    from dify_batch.settings import load_settings

    call = last_call(given, whole)
    settings, _ = load_settings(call)
    if "template" in given:
        path = Path(given["template"])
        if path.exists() or path.suffix.lower() != ".csv":
            why = "exists" if path.exists() else "is no .csv"
            raise UsageError(f"{path} {why}", hint="name another file after --template", code="usage_invalid_flag")
        return asyncio.run(_template(settings, path))
    collect = asyncio.run(_answer(settings, given.get("source")))
    if not collect:
        return Exit.OK
    if settings.input == "-" or not Path(settings.input).exists():
        write(sys.stderr, "the answers are sent; run the batch again with its input: it collects the results\n")
        return Exit.OK
    return batch.run(call, collect=True)


async def _template(settings: Settings, path: Path) -> int:
    import csv
    import io

    from dify_batch.batch.answering import waiting_forms
    from dify_batch.dify.client import DifyClient
    from dify_batch.errors import Exit
    from dify_batch.ledger.disk import PRIVATE, Disk
    from dify_batch.ledger.formats import BOM, Paths
    from dify_batch.ledger.state import read_state

    async with DifyClient(settings.base_url, settings.api_key.reveal()) as client:
        asked = await waiting_forms(client, read_state(Paths.of(settings.output)))
    first = {form.id: form for form in reversed(asked.waiting)}
    forms = [form for form in asked.waiting if first[form.id] is form]  # one a row: ids are unique in a table
    names = list(dict.fromkeys(name for form in forms for name in form.inputs))
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["id", "action", *names, "_actions", "_form"])
    for form in forms:
        cells = [form.inputs.get(name, "") for name in names]
        writer.writerow([form.id, "", *cells, ", ".join(form.actions), form.content])
    Disk().replace(path, (BOM if settings.bom else b"") + text.getvalue().encode(), PRIVATE)
    _tell(asked)
    write(sys.stdout, f"{path}: {len(forms)} to answer. Fill the column action, then add --from {path}\n")
    return Exit.OK


async def _answer(settings: Settings, source: str | None) -> bool:
    """Sends the answers. Whether there is something to collect."""
    from dify_batch.batch.answering import send_answer, until_resumed, waiting_forms
    from dify_batch.batch.appkind import client_of_app
    from dify_batch.batch.opened import opened_output
    from dify_batch.dify.client import DifyClient
    from dify_batch.errors import ServerError, UsageError

    async with (
        DifyClient(settings.base_url, settings.api_key.reveal()) as asking,
        opened_output(settings, asking) as opened,
    ):
        client = await client_of_app(settings, asking)
        asked = await waiting_forms(client, opened.state)
        _tell(asked)
        if not asked.waiting:
            write(sys.stderr, "no row waits for an answer\n")
            return bool(asked.elsewhere or asked.gone)
        if source is not None:
            answers = _from_table(source, asked)
        elif sys.stdin is not None and sys.stdin.isatty():
            answers = None
        else:
            raise UsageError(
                "answer asks, and there is no terminal to ask at",
                hint=f"give a table: --from answers.csv, made by --template answers.csv, for {settings.output}",
                code="usage_missing_arg",
            )
        sent = []
        for form in asked.waiting:
            given = _ask(form) if answers is None else answers.pop(form.id, None)
            if given is None:
                continue
            try:
                how = await send_answer(opened, client, form, *given)
            except ServerError as error:
                write(sys.stderr, f"row {form.id}: refused: {error.message}\n")
                continue
            write(sys.stderr, f"row {form.id}: {'answered' if how == 'sent' else 'answered elsewhere meanwhile'}\n")
            sent.append(form)
        await until_resumed(client, (form.ref for form in sent))
        return bool(sent or asked.elsewhere or asked.gone)


def _tell(asked: Asked) -> None:
    for row_id in asked.elsewhere:
        write(sys.stderr, f"row {row_id}: answered elsewhere\n")
    for row_id in asked.gone:
        write(sys.stderr, f"row {row_id}: the server does not know its form any more\n")


def _from_table(source: str, asked: Asked) -> dict[str, tuple[str, dict[str, str]]]:
    """id → (action, inputs) of the rows that have an action. Raises InvalidInput before anything is sent."""
    from dify_batch.errors import InvalidInput
    from dify_batch.input.records import Problem
    from dify_batch.input.rows import RowSource

    forms = {form.id: form for form in reversed(asked.waiting)}
    answers: dict[str, tuple[str, dict[str, str]]] = {}
    problems: list[str] = []
    with RowSource.open(source) as table:
        if "action" not in table.header:
            raise InvalidInput(
                f"{source} has no column action", hint="make the table with --template", code="invalid_csv"
            )
        for item in table:
            if isinstance(item, Problem):
                problems.append(str(item))
                continue
            cells = {
                name: str(cell) for name, cell in item.values.items() if name[:1] != "_" and cell not in (None, "")
            }
            cells.pop(table.id_column, None)
            action = cells.pop("action", "").strip()
            form = forms.get(item.id)
            if not action:
                continue
            if form is None:
                if item.id not in asked.elsewhere:
                    problems.append(f"row {item.id}: it does not wait for an answer")
                continue
            if problem := form.problem(action, cells):
                problems.append(problem)
            answers[item.id] = (action, cells)
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems[:20])
        raise InvalidInput(f"{source}; nothing was sent:\n{lines}", hint="correct the table", code="invalid_rows")
    return answers


def _ask(form: Waiting) -> tuple[str, dict[str, str]] | None:
    """Asks at the terminal; None to leave the row waiting."""
    from dify_batch.text import printable

    write(sys.stderr, printable(f"\nrow {form.id}\n{form.content}\n\n", keep="\n"))
    inputs = {}
    for name, default in form.inputs.items():
        inputs[name] = _read(f"{name} [{default}]: ") or default
    words = list(form.actions)
    for number, word in enumerate(words, 1):
        write(sys.stderr, printable(f"  {number}  {form.actions[word]} ({word})\n", keep="\n"))
    while True:
        text = _read("action (number or word, empty to leave it): ")
        if not text:
            return None
        if text in form.actions:
            return text, inputs
        if text.isascii() and text.isdigit() and 0 < int(text) <= len(words):
            return words[int(text) - 1], inputs
        write(sys.stderr, "no such action\n")


def _read(prompt: str) -> str:
    write(sys.stderr, prompt)
    return sys.stdin.readline().strip()
