"""The whole input is checked before the first run is paid for; then the good rows are read again to be sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from dify_batch.errors import InvalidInput
from dify_batch.ids import IN_INPUT, INVALID, SEEN, IdIndex
from dify_batch.input.files import Inputs
from dify_batch.input.form import BoundForm
from dify_batch.input.records import Problem, Row
from dify_batch.input.rows import RowSource
from dify_batch.text import count

SHOWN = 20
"""Problems that a message lists: enough to see the pattern, few enough to stay on a screen."""


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What the check of a whole input found.

    Attributes:
        rows: rows with a usable id, good or bad, each id once; so many ids have IN_INPUT.
        invalid: records that cannot be sent (those without a usable id and repeated ones included).
        first: the first 20 problems.
        counts: kind → how many problems.
        warnings: what does not stop the batch.
        stopped: a problem of the whole file (header, encoding, quotes, form): no row can be left out to cure it,
            and rows after it were perhaps not read.
        name: of the input, for the message.
    """

    rows: int
    invalid: int
    first: tuple[Problem, ...]
    counts: Mapping[str, int]
    warnings: tuple[str, ...] = ()
    stopped: bool = False
    name: str = "the input"
    structural: bool = field(default=False)

    def raise_if_any(self, *, skip_invalid: bool = False) -> None:
        """Raise what was found.

        Args:
            skip_invalid: let problems of single rows pass (--skip-invalid); those of the whole file never do.

        Raises:
            InvalidInput: code invalid_csv if the file itself is wrong, invalid_rows if only values do not fit the form;
                details: "problems" (the first 20), "counts".
        """
        total = sum(self.counts.values())
        if not total or (skip_invalid and not self.stopped):
            return
        lines = [f"{self.name}: {count(total, 'problem')}; nothing was sent."]
        lines += [f"  {problem}" for problem in self.first]
        if total > len(self.first):
            lines.append(f"  … and {total - len(self.first)} more")
        if total > 1:
            kinds = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
            lines.append("  in all: " + ", ".join(f"{kind} {count}" for kind, count in kinds))
        raise InvalidInput(
            "\n".join(lines),
            hint="correct the input and run the same command again"
            if self.stopped
            else "correct these rows and run the same command again, or add --skip-invalid to leave them out",
            code="invalid_csv" if self.structural else "invalid_rows",
            problems=[problem.as_dict() for problem in self.first],
            counts=dict(self.counts),
        )


def check(source: RowSource, form: BoundForm, index: IdIndex) -> CheckReport:
    """One streaming pass over all rows: ids, structure, and every value against the form.

    Marks each usable id IN_INPUT and that of a bad row INVALID; both flags are cleared first. Of a repeated id the
    first record counts, the later ones are problems.
    """
    index.clear(IN_INPUT | INVALID)
    first: list[Problem] = []
    counts: dict[str, int] = {}
    invalid = rows = 0
    stopped = structural = False

    def note(problem: Problem) -> None:
        nonlocal stopped, structural
        counts[problem.kind] = counts.get(problem.kind, 0) + 1
        stopped = stopped or problem.fatal
        structural = structural or problem.structural
        if len(first) < SHOWN:
            first.append(problem)

    warnings: list[str] = []
    if not source.broken:
        for problem in form.problems:
            note(problem)
        warnings += form.warnings
    add = index.first
    inputs = form.inputs
    for item in source:
        if isinstance(item, Problem):
            note(item)
            invalid += not item.fatal
            if item.id is not None and add(item.id, IN_INPUT):
                rows += 1
                index.add(item.id, INVALID)
        elif not add(item.id, IN_INPUT):
            invalid += 1
            note(_duplicate(item, source.id_column))
        else:
            rows += 1
            problems = inputs(item)[1]
            if problems:
                invalid += 1
                index.add(item.id, INVALID)
                for problem in problems:
                    note(problem)
    if not rows and not counts:
        warnings.append(f"{source.name} has a header and no rows")
    return CheckReport(
        rows=rows,
        invalid=invalid,
        first=tuple(_with_first_lines(source, first)),
        counts=counts,
        warnings=tuple(warnings),
        stopped=stopped,
        name=source.name,
        structural=structural,
    )


def valid_rows(source: RowSource, form: BoundForm, index: IdIndex) -> Iterator[tuple[Row, Inputs] | Problem]:
    """The sending pass: each row that passes, with its inputs; a Problem for everything else, by the rules of `check`.

    A row with several problems gives several. Uses the flag SEEN of the index for repeated ids (it is cleared when
    the pass begins), so only one such pass may be under way on one index. The index may be changed between items.
    """
    index.clear(SEEN)
    add = index.first
    inputs = form.inputs
    for item in source:
        if isinstance(item, Problem):
            if item.id is not None:
                add(item.id, SEEN)
            yield item
        elif not add(item.id, SEEN):
            yield _duplicate(item, source.id_column)
        else:
            values, problems = inputs(item)
            if problems:
                yield from problems
            else:
                yield item, values


def _duplicate(row: Row, column: str, first_line: int | None = None) -> Problem:
    where = "above" if first_line is None else f"on line {first_line}"
    message = f"this id already stands {where}; every row needs its own id"
    return Problem("duplicate_id", message, row.line, column, row.id)


def _with_first_lines(source: RowSource, problems: list[Problem]) -> list[Problem]:
    """The problems, repeated ids with the line of the first; found by a second pass that ends at the last of them.

    So the index need not hold a line for each id, and a good file is read once.
    """
    wanted = {problem.id for problem in problems if problem.kind == "duplicate_id"}
    lines: dict[str, int] = {}
    if wanted:
        for item in source:
            if item.id in wanted and item.id is not None and item.line is not None:
                lines[item.id] = item.line
                wanted.discard(item.id)
                if not wanted:
                    break
    result = []
    for problem in problems:
        if problem.kind == "duplicate_id" and problem.id in lines and problem.line is not None:
            row = Row(0, problem.line, problem.id, {})
            problem = _duplicate(row, problem.column or "id", lines[problem.id])
        result.append(problem)
    return result
