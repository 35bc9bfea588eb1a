"""A comparison as HTML: the rows that are not the same, side by side, with the changed words marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dify_batch.ledger import formats
from dify_batch.reports.diff.compare import MISSING, inputs, outputs
from dify_batch.reports.diff.read import KINDS, SAME, RowDiff
from dify_batch.reports.html.pack import Packer
from dify_batch.reports.html.page import render
from dify_batch.text import count

MAX_ROWS = 50_000  # each holds two results: as much as the 100,000 rows of a report
MAX_CHARS = 200 << 20


class DiffPage:
    """Gathers rows, compressed; `bytes` gives the page."""

    def __init__(self, a: str, b: str) -> None:
        self._a, self._b = a, b
        self._packer = Packer()
        self._columns: dict[str, list[Any]] = {"id": [], "state": [], "fields": []}
        self._blocks: list[str] = []
        self._block_rows: list[int] = []
        self._packed = 0
        self._rows = 0

    def add(self, row: RowDiff) -> None:
        """Adds a row that is not the same; beyond the room only counts it."""
        self._rows += 1
        if len(self._columns["id"]) >= MAX_ROWS or self._packer.size > MAX_CHARS:
            return
        self._columns["id"].append(row.id)
        self._columns["state"].append(KINDS.index(row.kind))
        self._columns["fields"].append(", ".join(change.field for change in row.changes))
        left = {change.field: change.a for change in row.changes if change.a is not MISSING}
        right = {change.field: change.b for change in row.changes if change.b is not MISSING}
        shown = inputs(row.a or row.b or {})
        if row.a is None or row.b is None:
            left, right = dict(outputs(row.a)) if row.a else {}, dict(outputs(row.b)) if row.b else {}
        elif row.kind == "other inputs":
            left = {f"inputs.{name}": value for name, value in inputs(row.a).items()} | left
            right = {f"inputs.{name}": value for name, value in inputs(row.b).items()} | right
            shown = {}
        about = {
            "id": row.id,
            "in the other": row.why,
            "run a": str((row.a or {}).get("workflow_run_id") or ""),
            "run b": str((row.b or {}).get("workflow_run_id") or ""),
        }
        self._keep(self._packer.add(about, shown, left, right))

    def _keep(self, block: str | None) -> None:
        if block is not None:
            self._blocks.append(block)
            self._block_rows.append(len(self._columns["id"]) - self._packed)
            self._packed = len(self._columns["id"])

    def bytes(
        self, kinds: Mapping[str, int], fields: Sequence[tuple[str, int]], *, tolerance: float, now: float
    ) -> bytes:
        """The page. `kinds`: ids by kind; `fields`: changed rows by field."""
        self._keep(self._packer.flush())
        total = max(1, sum(kinds.values()))
        same = kinds[SAME]
        lead = f"{count(total if sum(kinds.values()) else 0, 'id')} in the two: {same:,} the same, " + ", ".join(
            f"{number:,} {kind}" for kind, number in kinds.items() if kind != SAME
        )
        lead += f". Numbers that are at most {tolerance:g} apart count as the same." if tolerance else "."
        shown = len(self._columns["id"])
        note = f"This page holds the first {shown:,} of {self._rows:,} rows." if shown < self._rows else ""
        pieces = render(
            title=f"{Path(self._a).name} (a) and {Path(self._b).name} (b)",
            lead_template="differences.html.j2",
            figures={
                "lead": lead,
                "counts": [(kind, n, f"{100 * n / total:.1f} %") for kind, n in kinds.items() if n],
                "fields": fields,
            },
            meta={
                "kind": "diff",
                "sources": [self._a, self._b],
                "states": KINDS,
                "names": list(self._packer.names),
                "block_rows": self._block_rows,
                "priced": False,
            },
            columns=self._columns,
            blocks=self._blocks,
            rows_title="Rows that are not the same",
            rows_note=note,
            states=KINDS[1:],
            sources=[self._a, self._b],
            made_at=formats.utc(now).replace("T", " "),
            libraries=("jsdiff/diff.min.js",),
            scripts=("differences.js",),
        )
        return "".join(pieces).encode("utf-8", "replace")
