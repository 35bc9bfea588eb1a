"""What an export may write to: a format by the name, a place that is free or holds what an export wrote."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from dify_batch.errors import UsageError
from dify_batch.ledger import formats
from dify_batch.ledger.place import Kind, kind_of, require_folder, same_file
from dify_batch.reports import columnar, workbook
from dify_batch.reports.columnar import ParquetTable
from dify_batch.reports.database import DatabaseTable
from dify_batch.reports.tables import ADDED, CsvTable, Table
from dify_batch.reports.workbook import XlsxTable

FORMATS: dict[str, type[Table]] = {
    ".csv": CsvTable,
    ".xlsx": XlsxTable,
    ".parquet": ParquetTable,
    ".db": DatabaseTable,
    ".sqlite": DatabaseTable,
    ".sqlite3": DatabaseTable,
}
JSON_LINES = frozenset({".jsonl", ".ndjson"})
_HEAD = 1 << 20  # bytes: a header with more columns than that has is hardly a table


def format_of(target: Path, *, failed: bool) -> type[Table] | None:
    """The format that the name asks for; None for JSON lines, in which only failed rows are written."""
    suffix = target.suffix.lower()
    if suffix in FORMATS:
        return FORMATS[suffix]
    if suffix in JSON_LINES:
        if failed:
            return None
        raise UsageError(
            f"{target}: the results are JSON lines as they are",
            hint="give a table: -o table.csv",
            code="usage_invalid_flag",
        )
    raise UsageError(
        f"{target}: a table is written as .csv, .xlsx, .parquet or .db (SQLite)",
        hint=f"-o {target.with_suffix('.csv').name if target.stem else 'table.csv'}",
        code="usage_invalid_flag",
    )


def check_target(paths: formats.Paths, target: Path, inputs: Iterable[str], *, force: bool) -> None:
    """Raises UsageError where something would be lost: files of the batch, its input, or what no export wrote."""
    require_folder(target, "the target")
    kind = kind_of(target)
    if kind is Kind.FOLDER:
        raise UsageError(f"{target} is a folder", hint=f"give a file, such as -o {target / 'table.csv'}")
    if kind not in (Kind.NOTHING, Kind.FILE):
        raise UsageError(f"{target} is {kind.value}", hint="give a file, such as -o table.csv")
    for path in paths.all:
        if same_file(path, target):
            raise UsageError(
                f"{target} is a file of the batch itself and would be lost",
                hint="give the table a name of its own: -o table.csv",
            )
    for source in inputs:
        if source not in ("", "-") and same_file(Path(source), target):
            raise UsageError(
                f"{target} is the input of the batch and would be lost",
                hint="give the table a name of its own: -o table.csv",
            )
    if kind is Kind.FILE and not force and not _wrote(target):
        raise UsageError(
            f"{target} is there already, and no export wrote it",
            hint="give another name, or add --force to replace it",
        )


def _wrote(target: Path) -> bool:
    """Whether an export wrote the file, or it is empty."""
    try:
        with target.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    if not head:
        return True
    suffix = target.suffix.lower()
    if suffix == ".xlsx":
        return workbook.made_by_us(target)
    if suffix == ".parquet":
        return columnar.made_by_us(target)
    if suffix in JSON_LINES:
        return _lines_of_ours(head)
    return suffix in FORMATS and FORMATS[suffix].wrote(head)


def _lines_of_ours(head: bytes) -> bool:
    try:
        first = json.loads(head.removeprefix(formats.BOM).split(b"\n")[0])
    except (ValueError, RecursionError):
        return False
    return isinstance(first, dict) and set(ADDED[:2]) <= first.keys()
