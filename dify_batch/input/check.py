"""The whole input is checked before the first run is paid for; then the good rows are read again to be sent."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from dify_batch.errors import InputChanged, InvalidInput
from dify_batch.ids import IN_INPUT, INVALID, SEEN, IdIndex
from dify_batch.input.bound import BoundForm
from dify_batch.input.files import Inputs
from dify_batch.input.header import preamble_problem
from dify_batch.input.identity import alike, shortened
from dify_batch.input.passes import Changed
from dify_batch.input.records import Problem, Row
from dify_batch.input.rows import RowSource
from dify_batch.summary import Notice
from dify_batch.text import count, show

SHOWN = 20
"""Problems that a message lists: enough to see the pattern, few enough to stay on a screen."""

_ABOVE = 20  # so many lines above a header are believed; more are rows with something wrong


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
    warnings: tuple[Notice, ...] = ()
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
            lines.append("  in all: " + ", ".join(f"{kind} {times}" for kind, times in kinds))
        raise InvalidInput(
            "\n".join(lines),
            hint="correct the input and run the same command again"
            if self.stopped
            else "correct these rows and run the same command again, or add --skip-invalid to leave them out",
            code="invalid_csv" if self.structural else "invalid_rows",
            problems=[problem.as_dict() for problem in self.first],
            counts=dict(self.counts),
        )


class _Found:
    """The problems of one check, as they come."""

    def __init__(self) -> None:
        self.first: list[Problem] = []
        self.counts: dict[str, int] = {}
        self.stopped = self.structural = False
        self.garbled: Problem | None = None  # the whole text is in another encoding
        # The records of one wrong width that the file has ended with so far: which, since which record, how many.
        self.width = self.since = self.same = self.line = 0

    def note(self, problem: Problem) -> None:
        self.counts[problem.kind] = self.counts.get(problem.kind, 0) + 1
        self.stopped = self.stopped or problem.fatal
        self.structural = self.structural or problem.structural
        if problem.kind == "encoding" and problem.line is None:
            self.garbled = problem
        if len(self.first) < SHOWN:
            self.first.append(problem)

    def note_width(self, problem: Problem, number: int) -> None:
        """`number`: of the record, from 1."""
        if problem.width == self.width and number == self.since + self.same:
            self.same += 1
        else:
            self.width, self.since, self.same = problem.width or 0, number, 1
            self.line = problem.line or 0

    def only(self, problem: Problem) -> None:
        """One problem says all."""
        self.first, self.counts = [problem], {problem.kind: 1}
        self.stopped = self.stopped or problem.fatal
        self.structural = True


def check(
    source: RowSource,
    form: BoundForm,
    index: IdIndex,
    *,
    other_ids: bool = False,
    look: Callable[[str, Inputs], object] | None = None,
    part: Container[str] | None = None,
) -> CheckReport:
    """One streaming pass over all rows: ids, structure, and every value against the form.

    Marks each usable id IN_INPUT and that of a bad row INVALID; both flags are cleared first. Of a repeated id the
    first record counts, the later ones are problems. The source keeps marks of what was read, for `valid_rows`.

    Args:
        other_ids: let ids pass that differ from others in what cannot be seen (--allow-other-ids).
        look: called with the id and the inputs of each row that passes.
        part: the ids that are looked at, where the others have been: those are passed over, as if they were not there.
    """
    index.clear(IN_INPUT | INVALID)
    found = _Found()
    note = found.note
    invalid = rows = records = 0
    warnings = list(source.warnings)
    if not source.broken:
        for problem in form.problems:
            note(problem)
        warnings += form.warnings
    source.may_lack(form.optional_columns)
    add = index.first
    inputs = form.inputs
    for item in source.checking():
        records += 1
        if part is not None and item.id not in part and not (isinstance(item, Problem) and item.fatal):
            continue
        if isinstance(item, Problem):
            note(item)
            invalid += not item.fatal
            if item.width is not None:
                found.note_width(item, records)
            if item.id is not None and add(item.id, IN_INPUT):
                rows += 1
                index.add(item.id, INVALID)
        elif not add(item.id, IN_INPUT):
            invalid += 1
            note(_duplicate(item, source.id_column))
        else:
            rows += 1
            values, problems = inputs(item)
            if problems:
                invalid += 1
                index.add(item.id, INVALID)
                for problem in problems:
                    note(problem)
            elif look is not None:
                look(item.id, values)
    warnings += source.notes.notices()
    if not found.stopped and not other_ids:
        _note_alike(source, index, found)
    _judge_whole(source, form, found, records)
    if (notice := shortened(index)) is not None:
        warnings.append(notice)
    if not rows and not found.counts:
        warnings.append(Notice("no_rows", f"{source.name} has a header and no rows"))
    return CheckReport(
        rows=rows,
        invalid=invalid,
        first=tuple(_with_first_lines(source, found.first)),
        counts=found.counts,
        warnings=tuple(warnings),
        stopped=found.stopped,
        name=source.name,
        structural=found.structural,
    )


def _judge_whole(source: RowSource, form: BoundForm, found: _Found, records: int) -> None:
    """Whether one thing explains the problems of many rows: a wrong encoding, lines above the header, no ids."""
    if found.garbled is not None:  # then what else was found was found in garbled text
        found.only(found.garbled)
        return
    before = found.since - 1
    to_the_end = found.same > 1 and found.since + found.same - 1 == records
    # Above a header stand a few short lines, and no rows of a wider table.
    narrow = source.columns < found.width and (source.columns == 1 or found.same > 4 * before)
    above = before == 0 or (before <= _ABOVE and narrow)
    if to_the_end and above and source.table is not None:
        found.only(preamble_problem(source.table.header, found.line, found.width, found.same))
        return
    repeated = found.counts.get("duplicate_id", 0)
    if repeated and not source.id_given and not source.typed and form.knows(source.id_column):
        first = next((problem for problem in found.first if problem.kind == "duplicate_id"), None)
        example = "" if first is None else f" (such as {show(first.id)})"
        message = (
            f"the ids are taken from the first column, {show(source.id_column)}, and {repeated:,} of them "
            f"{'stands' if repeated == 1 else 'stand'} there more than once{example}; "
            "name another with --id-column, or add a column of ids"
        )
        found.only(Problem("no_ids", message, None, source.id_column))


def _note_alike(source: RowSource, index: IdIndex, found: _Found) -> None:
    pairs = dict(alike(index))
    if not pairs:
        return
    lines = _first_lines(source, pairs)
    for id_, other in pairs.items():
        whose = "of this file" if index.has(other, IN_INPUT) else "that the output knows from before"
        message = (
            f"the id {_exactly(id_)} looks the same as {_exactly(other)} {whose} and is another: write both alike, "
            "or add --allow-other-ids if they are two rows"
        )
        found.note(Problem("alike_id", message, lines.get(id_), source.id_column, id_))


def _exactly(id_: str) -> str:
    """An id with everything beyond ASCII as an escape: what differs cannot be seen."""
    return json.dumps(id_[:60])


def valid_rows(
    source: RowSource, form: BoundForm, index: IdIndex, chosen: Container[str] | None = None, *, barred: int = 0
) -> Iterator[tuple[Row, Inputs] | Problem]:
    """The sending pass: each row that passes, with its inputs; a Problem for everything else, by the rules of `check`.
    Only of the `chosen` ids, None for all; ids with one of the flags `barred` are passed over.

    A row with several problems gives several. What passed the check and does not any more (a file has gone that it
    names) gets INVALID in the index with its Problem. Uses the flag SEEN of the index for repeated ids (it is cleared
    when the pass begins), so only one such pass may be under way on one index. The index may be changed between items.

    Raises:
        InputChanged: what comes next is not what was checked.
    """
    index.clear(SEEN)
    add, has = index.first, index.has
    inputs = form.inputs
    source.may_lack(form.optional_columns)
    line = 0
    try:
        for item in source.sending():
            if isinstance(item, Problem):
                if item.id is not None:
                    add(item.id, SEEN)
                problems = [item]
            elif not add(item.id, SEEN):
                problems = [_duplicate(item, source.id_column)]
            elif (barred and has(item.id, barred)) or (chosen is not None and item.id not in chosen):
                continue
            else:
                line = item.line
                if source.perhaps_cut():
                    raise Changed
                values, problems = inputs(item)
                if has(item.id, INVALID):  # as the check had it, whatever has come since
                    problems = problems or [Problem("not_checked", "it did not pass the check", line, None, item.id)]
                elif problems:
                    index.add(item.id, INVALID)
                else:
                    yield item, values
            if problems and (chosen is None or item.id in chosen):
                yield from problems
    except Changed:
        raise _changed(source, f" from line {line} on" if line else "") from None
    if source.checked and source.changed():
        raise _changed(source, "")


def _changed(source: RowSource, where: str) -> InputChanged:
    return InputChanged(
        f"{source.name} was changed while the batch ran, so it is not what was checked{where}; "
        "every row that was sent is as it was checked",
        hint="run the same command again once nothing writes to the file; done rows are skipped",
    )


def _duplicate(row: Row, column: str, first_line: int | None = None) -> Problem:
    where = "above" if first_line is None else f"on line {first_line}"
    message = f"this id already stands {where}; every row needs its own id"
    return Problem("duplicate_id", message, row.line, column, row.id)


def _first_lines(source: RowSource, ids: Iterable[str]) -> dict[str, int]:
    """The line where each of some ids stands first, by a second pass that ends at the last of them.

    So the index need not hold a line for each id, and a good file is read once.
    """
    wanted = set(ids)
    lines: dict[str, int] = {}
    for item in source if wanted else ():
        if item.id in wanted and item.id is not None and item.line is not None:
            lines[item.id] = item.line
            wanted.discard(item.id)
            if not wanted:
                break
    return lines


def _with_first_lines(source: RowSource, problems: list[Problem]) -> list[Problem]:
    """The problems, repeated ids with the line of the first."""
    repeated = [problem.id for problem in problems if problem.kind == "duplicate_id" and problem.id is not None]
    lines = _first_lines(source, repeated)
    result = []
    for problem in problems:
        if problem.kind == "duplicate_id" and problem.id in lines and problem.line is not None:
            row = Row(0, problem.line, problem.id, {})
            problem = _duplicate(row, problem.column or "id", lines[problem.id])
        result.append(problem)
    return result
