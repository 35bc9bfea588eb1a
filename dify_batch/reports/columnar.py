"""Tables as Parquet: a type for each column, written in groups of rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from dify_batch.errors import UsageError
from dify_batch.ledger.disk import NewFile
from dify_batch.reports.tables import Column, Table, json_text

_GROUP = 5_000  # rows that are in memory at a time
_MADE_BY = b"dify-batch export"


class ParquetTable(Table):
    """Whole numbers, numbers, true and false keep their type where a column has nothing else; all others are texts,
    nested values as JSON. Raises UsageError where pyarrow is not installed."""

    def __init__(self, new: NewFile, columns: Sequence[Column]) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise UsageError(
                ".parquet needs pyarrow, which is not installed",
                hint="pip install 'dify-batch[parquet]', or give a .csv: -o table.csv",
                code="usage_invalid_flag",
            ) from None
        types = {
            Column.INT: pyarrow.int64(),
            Column.FLOAT: pyarrow.float64(),
            Column.INT | Column.FLOAT: pyarrow.float64(),
            Column.BOOL: pyarrow.bool_(),
        }
        fields = [pyarrow.field(column.name, types.get(column.kinds, pyarrow.string())) for column in columns]
        self._arrow = pyarrow
        self._schema = pyarrow.schema(fields, metadata={b"made_by": _MADE_BY})
        self._texts = [field.type == pyarrow.string() for field in fields]
        self._writer = pyarrow.parquet.ParquetWriter(new.file, self._schema)
        self._cells: list[list[Any]] = [[] for _ in columns]

    @staticmethod
    def wrote(head: bytes) -> bool:
        return False  # it says so at its end: `made_by_us`

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def write(self, cells: Iterable[Any], where: str) -> None:
        for column, text, value in zip(self._cells, self._texts, cells, strict=True):
            column.append(_text(value) if text and value is not None else value)
        if len(self._cells[0]) >= _GROUP:
            self._flush()

    def _flush(self) -> None:
        arrays = [
            self._arrow.array(cells, type=field.type) for cells, field in zip(self._cells, self._schema, strict=True)
        ]
        self._writer.write_table(self._arrow.Table.from_arrays(arrays, schema=self._schema))
        self._cells = [[] for _ in self._cells]

    def notes(self) -> tuple[str, ...]:
        return ()


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json_text(value)
    return text.encode("utf-8", "backslashreplace").decode()  # a lone surrogate is shown as its escape


def made_by_us(path: Path) -> bool:
    """Whether a Parquet file is one that an export wrote."""
    try:
        import pyarrow.parquet

        found = pyarrow.parquet.read_schema(path).metadata or {}
    except (ImportError, OSError, ValueError):
        return False
    return bool(found.get(b"made_by") == _MADE_BY)
