"""`dify-batch report`: one HTML file that says what came of one or several outputs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dify_batch.errors import StorageError, UsageError
from dify_batch.ledger import formats
from dify_batch.ledger.disk import Disk
from dify_batch.ledger.shards import outputs_of
from dify_batch.reports.html.collect import STATES, Collected, collect
from dify_batch.reports.html.pack import script_json
from dify_batch.reports.html.page import raw, render
from dify_batch.text import count, duration
from dify_batch.usage import price_text, times_text

MAX_GROUPS = 50  # kinds of failure in the page; a batch with more of them has one cause per row
FIGURES = "figures.html.j2"


@dataclass(frozen=True, slots=True)
class HtmlReport:
    """What was written: `rows` there are, `shown` of them in the page; `bytes` of the file; `lead`: it in one line."""

    target: str
    rows: int
    shown: int
    bytes: int
    lead: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        part = f" ({self.shown:,} of them with inputs and outputs)" if self.shown < self.rows else ""
        return f"{self.target}: {count(self.rows, 'row')}{part}, {_size(self.bytes)}\n{self.lead}"


def write_report(outputs: Sequence[Path], target: Path, *, now: float, disk: Disk | None = None) -> HtmlReport:
    """Writes the report of the outputs to `target`, in the place of what was there. `now`: seconds since 1970.

    Raises:
        UsageError: an output is no batch; the target is none, or a file of a batch.
        StorageError: a file cannot be read or written.
    """
    outputs = [part for output in outputs for part in outputs_of(output)]
    check_target([formats.Paths.of(output) for output in outputs], target)
    found = collect(outputs)
    lead = lead_of(found)
    pieces = render(
        title=title_of(found.sources),
        lead_template=FIGURES,
        figures=figures_of(found, lead),
        meta=meta_of(found),
        columns=found.columns.as_dict(),
        blocks=found.blocks,
        rows_title="All rows" if not found.sampled else "Rows",
        rows_note=sampled_note(found),
        states=STATES,
        sources=found.sources,
        made_at=formats.utc(now).replace("T", " "),
    )
    data = "".join(pieces).encode("utf-8", "replace")
    write_page(target, data, disk or Disk())
    return HtmlReport(str(target), found.total_rows, len(found.columns.id), len(data), lead)


def write_page(target: Path, data: bytes, disk: Disk) -> None:
    """The page in one step; raises StorageError."""
    try:
        disk.replace(target, data)
    except OSError as error:
        raise StorageError(
            f"{target} cannot be written: {error.strerror or error}",
            hint="the results are as they were; give a place with room that you may write to: -o report.html",
        ) from error


def check_target(outputs: Sequence[formats.Paths], target: Path) -> None:
    """Raises UsageError for a target that is a folder, or a file of one of the outputs, or no page."""
    if target.is_dir():
        raise UsageError(f"{target} is a folder", hint=f"give a file, such as -o {target / 'report.html'}")
    if target.suffix.lower() not in (".html", ".htm"):
        raise UsageError(
            f"{target}: a report is written as .html",
            hint=f"-o {target.with_suffix('.html').name if target.stem else 'report.html'}",
            code="usage_invalid_flag",
        )
    if not target.parent.is_dir():
        raise UsageError(
            f"{target}: there is no folder {target.parent}", hint=f"make it first: mkdir -p '{target.parent}'"
        )
    for paths in outputs:
        for path in (*paths.data, paths.lock):
            if os.path.realpath(path) == os.path.realpath(target):
                raise UsageError(
                    f"{target} is a file of the batch itself and would be lost",
                    hint="give the report a name of its own: -o report.html",
                )


def title_of(sources: Sequence[str]) -> str:
    names = [Path(source).name for source in sources]
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more"


def lead_of(found: Collected) -> str:
    """What happened, in one line."""
    states = [f"{number:,} {name}" for name, number in found.counts.items() if number]
    if found.untouched:
        states.append(f"{found.untouched:,} not sent yet")
    line = f"{count(found.total_rows + found.untouched, 'row')}: {', '.join(states) or 'nothing yet'}"
    facts = []
    if found.first_at is not None and found.last_at is not None:
        took = found.last_at - found.first_at
        facts.append(f"From {formats.utc(found.first_at).replace('T', ' ')}, for {duration(took)}" if took else "")
    if found.used.tokens:
        facts.append(f"{found.used.tokens:,} tokens")
    facts.append(price_text(found.used.prices))
    facts.append(times_text(found.times.mean_worked, found.times.mean_waited))
    facts = [fact for fact in facts if fact]
    return f"{line}. {', '.join(facts)}{'.' if facts else ''}{' It goes on.' if found.going_on else ''}".strip()


def sampled_note(found: Collected) -> str:
    if not found.sampled:
        return ""
    results = found.counts["success"] + found.counts["partial success"]
    other = found.total_rows - results
    shown = len(found.columns.id) - other
    failures = f"all {other:,} rows without a result, and " if other else ""
    return (
        f"This page holds {failures}an even sample of {shown:,} of the {results:,} rows with one; "
        "the figures above are of all rows. The rest is in the results."
    )


def figures_of(found: Collected, lead: str) -> Mapping[str, Any]:
    """The values of the template of what stands above the rows."""
    total = max(1, found.total_rows + found.untouched)
    numbers = {name: number for name, number in found.counts.items() if number}
    numbers |= {"not sent yet": found.untouched} if found.untouched else {}
    groups = found.groups[:MAX_GROUPS]
    rest = sum(group.count for group in found.groups[MAX_GROUPS:])
    return {
        "lead": lead,
        "warnings": found.warnings,
        "counts": [(name, number, f"{100 * number / total:.1f} %") for name, number in numbers.items()],
        "groups": groups,
        "more_groups": f"and {rest:,} more of other kinds" if rest else "",
        "charts": [chart_of(chart) for chart in found.charts],
        "slowest": found.slowest,
        "dearest": found.dearest,
    }


def chart_of(chart: Mapping[str, Any]) -> dict[str, Any]:
    """A chart for the template: as JSON for the script, and as rows of a table."""
    values = [line["values"] for line in chart["series"]]
    table = list(zip(chart["labels"], *values, strict=True))
    return {**chart, "table": table, "json": raw(script_json(chart))}


def meta_of(found: Collected) -> dict[str, Any]:
    """What the scripts of the page have to know."""
    return {
        "kind": "report",
        "sources": [Path(source).name for source in found.sources],
        "states": STATES,
        "names": found.names,
        "block_rows": found.block_rows,
        "priced": any(price is not None for price in found.columns.price),
    }


def _size(size: int) -> str:
    return f"{size / (1 << 20):.1f} MB" if size >= 1 << 20 else f"{size / 1024:.0f} kB"
