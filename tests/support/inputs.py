"""What an input comes to: the rows that would be sent, and what its user is told."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dify_batch.errors import InvalidInput
from dify_batch.ids import IdIndex
from dify_batch.input.check import check, valid_rows
from dify_batch.input.form import Form
from dify_batch.input.records import Problem
from dify_batch.input.rows import RowSource

WIRE = Path(__file__).parent.parent / "wire"


def recorded_form(exchange: str = "19-parameters-W1") -> Form:
    """The form of a recorded answer of GET /parameters; by default query (required), language, tone, n, flag, meta."""
    recorded = json.loads((WIRE / f"{exchange}.json").read_text(encoding="utf-8"))
    return Form.from_parameters(json.loads(recorded["response"]["body"]))


ECHO = recorded_form()


@dataclass(frozen=True)
class Came:
    """`error`: the problems as shown, without the summary line; "" if all may be sent. `sent`: the rows' inputs."""

    error: str
    kinds: dict[str, int]
    warnings: tuple[str, ...]
    sent: list[dict[str, Any]]


def comes_to(
    path: Path, *, form: Form = ECHO, index: IdIndex | None = None, bound: dict[str, Any] | None = None, **options: Any
) -> Came:
    """Checks a file as a batch does, and reads what would be sent if there is nothing wrong.

    Args:
        bound: more arguments of `Form.bind`.
        options: of `RowSource.open`.
    """
    index = IdIndex() if index is None else index
    with RowSource.open(str(path), **options) as source:
        fitted = form.bind(
            source.header,
            id_column=source.id_column,
            base_dir=source.base_dir,
            typed=source.typed,
            **(bound or {}),
        )
        report = check(source, fitted, index)
        warnings = tuple(notice.message for notice in report.warnings)
        try:
            report.raise_if_any()
        except InvalidInput as error:
            return Came(error.message.partition("\n")[2].strip(), dict(report.counts), warnings, [])
        rows = list(valid_rows(source, fitted, index))
        assert not [row for row in rows if isinstance(row, Problem)]
        sent = [row[1].values for row in rows if not isinstance(row, Problem)]
        assert len(sent) == report.rows
        return Came("", {}, warnings, sent)
