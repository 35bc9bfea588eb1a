"""`dify-batch diff`: two versions of a workflow on the same rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dify_batch.errors import Exit
from dify_batch.ledger import formats
from dify_batch.ledger.disk import Disk
from dify_batch.ledger.shards import outputs_of
from dify_batch.reports.diff.compare import MISSING, Change, as_text
from dify_batch.reports.diff.page import DiffPage
from dify_batch.reports.diff.read import CHANGED, KINDS, ONLY_A, ONLY_B, OTHER_INPUTS, SAME, Counts, Pair, RowDiff
from dify_batch.reports.diff.words import diff_words, marked
from dify_batch.reports.html.report import check_target, write_page
from dify_batch.text import count, one_line

SHOWN = 20  # rows in the text: what a person reads on a screen
VALUES = 1000  # rows in the machine output; the counts are of all
_WIDTH = 600  # characters of a changed value on a line


@dataclass(frozen=True, slots=True)
class DiffReport:
    """`kinds`: ids by KINDS; `fields`: changed rows by field, the most first; `rows`: the first of those that are not
    the same. `page`: where the HTML went."""

    a: str
    b: str
    kinds: Mapping[str, int]
    fields: tuple[tuple[str, int], ...]
    rows: tuple[RowDiff, ...]
    page: str | None = None

    @property
    def exit_status(self) -> Exit:
        """0 the same, 1 different, 2 nothing to compare: no id is in both with the same inputs."""
        if not self.kinds[SAME] and not self.kinds[CHANGED]:
            return Exit.USAGE
        return Exit.OK if not self._different else Exit.FAILED

    @property
    def _different(self) -> int:
        return sum(number for kind, number in self.kinds.items() if kind != SAME)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready. A field that one side does not have has only the value of the other."""
        return {
            "a": self.a,
            "b": self.b,
            "comparable": self.exit_status != Exit.USAGE,
            **{kind.replace(" ", "_"): number for kind, number in self.kinds.items()},
            "fields": dict(self.fields),
            "rows": [_row_dict(row) for row in self.rows],
            "rows_left_out": self._different - len(self.rows),
            **({"page": self.page} if self.page is not None else {}),
        }

    def text(self) -> str:
        """For people."""
        names = {ONLY_A: f"only in {self.a}", ONLY_B: f"only in {self.b}", OTHER_INPUTS: "with other inputs"}
        parts = [f"{number:,} {names.get(kind, kind)}" for kind, number in self.kinds.items() if number]
        lines = [f"{count(sum(self.kinds.values()), 'id')}: {', '.join(parts) or 'none'}"]
        if self.exit_status == Exit.USAGE:
            lines.append("nothing can be compared: no id is in both with the same inputs")
        if self.fields:
            lines.append(f"changed fields: {', '.join(f'{one_line(name)} {n:,}' for name, n in self.fields)}")
        for row in self.rows[:SHOWN]:
            lines += _row_lines(row, names)
        if (more := self._different - min(SHOWN, len(self.rows))) > 0:
            lines.append(f"and {count(more, 'row')} more; all of them: -o diff.html")
        if self.page is not None:
            lines.append(f"side by side: {self.page}")
        return "\n".join(lines)


def _row_dict(row: RowDiff) -> dict[str, Any]:
    fields = [
        {"field": change.field}
        | ({} if change.a is MISSING else {"a": change.a})
        | ({} if change.b is MISSING else {"b": change.b})
        for change in row.changes
    ]
    return {"id": row.id, "kind": row.kind, "fields": fields} | ({"why": row.why} if row.why else {})


def _row_lines(row: RowDiff, names: Mapping[str, str]) -> list[str]:
    kind = "" if row.kind == CHANGED else f"  {names[row.kind]}"
    why = f" ({one_line(row.why)})" if row.why else ""
    return [f"{one_line(row.id)}{kind}{why}", *(f"  {one_line(c.field)}: {_change_text(c)}" for c in row.changes)]


def _change_text(change: Change) -> str:
    if change.a is MISSING:
        return f"{{+{one_line(as_text(change.b), _WIDTH)}+}}"
    if change.b is MISSING:
        return f"[-{one_line(as_text(change.a), _WIDTH)}-]"
    return one_line(marked(diff_words(as_text(change.a), as_text(change.b))), _WIDTH)


def diff(
    a: Path, b: Path, *, tolerance: float = 0.0, target: Path | None = None, now: float = 0.0, disk: Disk | None = None
) -> DiffReport:
    """Compares two outputs; with `target` writes them side by side as HTML. `now`: seconds since 1970.

    Raises:
        UsageError: one is no batch; the target is none, or a file of a batch.
        StorageError: a file cannot be read or written.
    """
    if target is not None:
        check_target([formats.Paths.of(part) for output in (a, b) for part in outputs_of(output)], target)
    pair, counts = Pair(a, b, tolerance=tolerance), Counts()
    rows: list[RowDiff] = []
    page = DiffPage(str(a), str(b)) if target is not None else None
    for row in pair.rows():
        counts.add(row)
        if row.kind == SAME:
            continue
        if len(rows) < VALUES:
            rows.append(row)
        if page is not None:
            page.add(row)
    kinds = {kind: counts.kinds[kind] for kind in KINDS}
    if page is not None and target is not None:
        write_page(target, page.bytes(kinds, counts.fields.most_common(), tolerance=tolerance, now=now), disk or Disk())
    return DiffReport(
        str(a), str(b), kinds, tuple(counts.fields.most_common()), tuple(rows), str(target) if target else None
    )
