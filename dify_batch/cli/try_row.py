"""`dify-batch try`: one row, shown node by node."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dify_batch.cli.channels import fail, to_json, write
from dify_batch.cli.connection import add_connection, connected
from dify_batch.cli.parser import Parser, Subparsers, add_command, add_file, add_json

if TYPE_CHECKING:
    from dify_batch.batch.trial import NodeRun, Trial
    from dify_batch.dify.watching import RunEvent

NAME = "try"
USAGE = "try [-i data.csv] [--id ID] [--set INPUT=VALUE]... [-o FILE] [--demo] [--app-kind KIND] [--json]"


def add_parser(commands: Subparsers, *, complete: bool) -> None:
    parser = add_command(commands, NAME, "one row, shown node by node; nothing is written but with -o", "write")
    add_file(parser, "-i", "--input", complete=complete, metavar="PATH", help="the table; without it --set alone")
    parser.add_argument("--id", metavar="ID", help="the row of the table (default the first)")
    parser.add_argument(
        "--set", dest="values", metavar="INPUT=VALUE", action="append", help="an input, in place of the table's"
    )
    add_file(parser, "-o", "--output", complete=complete, metavar="FILE", help="write the result line to a new file")
    parser.add_argument("--encoding", metavar="NAME", help="the encoding of the table (default utf-8)")
    parser.add_argument("--delimiter", metavar="CHAR", help="what separates the cells of the CSV (default ,)")
    parser.add_argument("--sheet", metavar="NAME", help="the sheet of a workbook (default the first)")
    parser.add_argument("--id-column", metavar="NAME", help="the column that holds the row's id (default the first)")
    add_connection(parser, complete=complete)
    add_json(parser)


def run(given: Mapping[str, Any], whole: Callable[..., Parser]) -> int:
    import asyncio

    from dify_batch.errors import DifyBatchError, Exit, UsageError
    from dify_batch.flagvalues import parse_pair

    machine = "json" in given
    values: dict[str, str] = {}
    for text in given.get("values", ()):
        try:
            name, value = parse_pair(text)
        except ValueError as error:
            raise UsageError(f'--set: "{text}" is not {error}', code="usage_invalid_flag") from None
        values[name] = value
    if not values and "input" not in given:
        raise UsageError(
            "nothing to try", hint="give a table: -i data.csv, or inputs: --set query=hello", code="usage_missing_arg"
        )
    output = Path(given["output"]) if "output" in given else None
    if output is not None and output.exists():
        raise UsageError(f"{output} exists", hint="name another file after -o", code="usage_invalid_flag")
    trial, key = asyncio.run(_try(given, values, machine=machine))
    if trial.good:
        if output is not None and trial.result is not None:
            _write(trial, output)
        shown = to_json(trial.as_dict()) if machine else _pretty(trial)
        write(sys.stdout, shown.replace(key, "********") + "\n")
        return Exit.OK
    reason = trial.result.error if trial.result is not None else None
    return fail(
        DifyBatchError(
            f"the run ended as {trial.status}: {reason or 'without an error text'}",
            code="rows_failed",
            hint="nothing was written",
            workflow_run_id=trial.ref and trial.ref.run_id,
        ),
        machine=machine,
        key=key,
    )


async def _try(given: Mapping[str, Any], values: Mapping[str, str], *, machine: bool) -> tuple[Trial, str]:
    from dify_batch.batch.appkind import ask_app
    from dify_batch.batch.trial import new_user, row_to_try, try_answer, try_row
    from dify_batch.seams import REAL

    def show(event: RunEvent) -> None:
        if not machine and (line := _line(event)):
            write(sys.stderr, line + "\n")

    async with connected(given) as (settings, client):
        app = await ask_app(settings, client)
        source, row_id = given.get("input"), given.get("id")
        row_id, inputs = row_to_try(settings, app.form, source=source, row_id=row_id, values=values)
        user = new_user(REAL.chance.token(4))
        if app.kind.flows:
            trial = await try_row(app.client, row_id, inputs, user=user, on_event=show)
        else:
            trial = await try_answer(app.client, row_id, inputs, user=user)
            if not machine:
                write(sys.stderr, f"{_ended(trial)}\n")
        return trial, settings.api_key.reveal()


def _line(event: RunEvent) -> str:
    """A line for people of one event; nothing for those that tell them nothing."""
    from dify_batch.batch.trial import NodeRun
    from dify_batch.text import printable

    match event.name:
        case "workflow_started":
            return f"run {event.run_id}"
        case "node_started" if sys.stderr is not None and sys.stderr.isatty():  # who looks on sees what is at work
            return printable(f"  ... {event.data.get('title') or event.data.get('node_id')}")
        case "node_finished":
            return printable(_node(NodeRun.of(event.data)))
        case "workflow_finished":
            return printable(_end(*(event.data.get(name) for name in ("status", "elapsed_time", "total_tokens"))))
        case "workflow_paused":
            return "paused: the run waits for a person"
    return ""


def _end(status: object, elapsed: object, tokens: object) -> str:
    time = f", {elapsed:.2f} s" if isinstance(elapsed, int | float) else ""
    return f"{status}{time}{f', {tokens:,} tokens' if isinstance(tokens, int) and tokens else ''}"


def _ended(trial: Trial) -> str:
    result = trial.result
    return _end(trial.status, result and result.elapsed_time, result and result.total_tokens)


def _node(node: NodeRun) -> str:
    parts = [f"  {node.title} ({node.type})"]
    if node.elapsed_time is not None:
        parts.append(f"{node.elapsed_time:.2f} s")
    if node.total_tokens:
        parts.append(f"{node.total_tokens:,} tokens")
    if node.total_price and node.currency:
        parts.append(f"{node.total_price} {node.currency}")
    line = "  ".join(parts)
    return f"{line}  {node.status}{f': {node.error}' if node.error else ''}" if node.status != "succeeded" else line


def _pretty(trial: Trial) -> str:
    import json

    shown: object = trial.forms if trial.paused else trial.result and trial.result.outputs
    return json.dumps(shown, ensure_ascii=False, indent=2)


def _write(trial: Trial, output: Path) -> None:
    from dify_batch.ledger.disk import Disk
    from dify_batch.ledger.formats import result_line
    from dify_batch.seams import REAL

    assert trial.result is not None
    line = result_line(trial.id, trial.inputs, trial.result, retry_count=0, now=REAL.clock.wall())
    Disk().replace(output, line)
