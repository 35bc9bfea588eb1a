"""A form bound to the columns of one file: what each cell becomes, and what Dify would refuse."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from dify_batch.errors import UsageError
from dify_batch.ids import looks
from dify_batch.input import values as to
from dify_batch.input.fields import FILES, TEXTS, Variable
from dify_batch.input.files import FilePlace, Inputs, find_local
from dify_batch.input.filetypes import FileRules
from dify_batch.input.records import ADDED, Problem, Row
from dify_batch.input.user import UserTemplate
from dify_batch.summary import Notice
from dify_batch.text import nearest, show


class BoundForm:
    """A form bound to the columns of one file.

    Args:
        variables: of the form; None if it was not asked for, and every cell is sent as it is.
        files: rules of the app's own `files` list.
        header, id_column, files_column, place, typed, user, constants, renames: see `Form.bind`.

    Attributes:
        problems: of the columns against the form; with any of them no row could work.
        warnings: columns that the app does not know.
        optional_columns: so many columns at the end of a table are no required input: a record may end before them.
    """

    def __init__(
        self,
        variables: Sequence[Variable] | None,
        files: FileRules,
        header: tuple[str, ...],
        id_column: str,
        files_column: str | None,
        place: FilePlace,
        typed: bool,
        *,
        user: UserTemplate | None,
        constants: Mapping[str, Any],
        renames: Mapping[str, str],
    ) -> None:
        self.problems: tuple[Problem, ...] = ()
        self.warnings: tuple[Notice, ...] = ()
        self.optional_columns: int = 0
        self._known = variables is not None
        self._variables = tuple(variables or ())
        self._id_column = id_column
        self._files_column = files_column
        self._typed = typed
        self._place = place
        self._files = to.files(files, place, single=False)
        self._has_files = files_column is not None or any(v.type in FILES for v in self._variables)
        self._by_name = {variable.name: variable for variable in self._variables}
        self._by_label = self._labels()
        self._by_looks = {looks(name): name for name in reversed([*self._by_label, *self._by_name])}
        self._user = user
        self._renames = renames
        self._check_renames(header)
        self._constants = {name: self._constant(name, text) for name, text in constants.items()}
        self._bind(header)
        if user is not None and not user.columns and (fault := user.fault({})) is not None:
            raise UsageError(fault.replace(" for this row", ""), code="usage_invalid_flag")

    def _check_renames(self, header: tuple[str, ...]) -> None:
        for column, name in self._renames.items():
            said = f"--map {column}={name}"
            if column not in header and not self._typed:
                near = nearest(column, header)
                hint = f"did you mean {show(near)}?" if near else f"it has {_names(header)}"
                raise UsageError(
                    f"{said}: the input has no column {show(column)}", code="usage_invalid_flag", hint=hint
                )
            self._check_input(name, said)

    def _check_input(self, name: str, said: str) -> None:
        """Raises where the app has no input of this name; without a form any name may be one."""
        if name == "id" and "id" not in self._by_name:
            raise UsageError(
                f"{said}: the key id holds the row's id", code="usage_invalid_flag", hint="see --id-column"
            )
        if self._known and name not in self._by_name:
            near = nearest(name, self._by_name)
            hint = f"did you mean {show(near)}?" if near else f"it has {_names(tuple(self._by_name))}"
            raise UsageError(f"{said}: the app has no input {show(name)}", code="usage_invalid_flag", hint=hint)

    def _constant(self, name: str, value: Any) -> Any:
        said = f"--set {name}={value}"
        self._check_input(name, said)
        if value == "":
            raise UsageError(f"{said} has no value", code="usage_invalid_flag", hint="leave it out, or give a value")
        variable = self._by_name.get(name)
        try:
            return to.plain(value) if variable is None else self._converter(variable, typed=False)(value)
        except to.Refused as error:
            raise UsageError(f"{said}: {error.message}", code="usage_invalid_flag") from None

    def _labels(self) -> dict[str, str]:
        """Label → variable, of labels that stand for one variable only and are no variable's name."""
        labels: dict[str, str | None] = {}
        for variable in self._variables:
            labels[variable.label] = None if variable.label in labels else variable.name
        return {label: name for label, name in labels.items() if name is not None and label not in self._by_name}

    def _key(self, column: str) -> str | None:
        """The variable of a column."""
        renamed = self._renames.get(column)
        if renamed is not None:
            return renamed
        if column not in self._by_name and column not in self._by_label:
            column = self._by_looks.get(looks(column), column)  # the same name in another Unicode form
        return column if column in self._by_name else self._by_label.get(column)

    def _bind(self, header: tuple[str, ...]) -> None:
        problems = []
        column_of: dict[str, str] = {"id": self._id_column} if "id" in self._by_name else {}
        optional = []
        unknown = []
        for column in header:
            if column == self._files_column:
                optional.append(True)
                continue
            name = self._key(column)
            known = self._by_name.get(name or "")
            optional.append(column != self._id_column and not (known is not None and known.required))
            if name is None and column in ADDED:
                continue
            if name is None:
                unknown.append(column)
            elif name in self._constants and not self._typed:
                message = (
                    f"--set gives the input {show(name)} to each row, and the column {show(column)} too; leave one out"
                )
                problems.append(Problem("double_column", message, 1, column))
            elif column_of.setdefault(name, column) != column and not self._typed:
                message = (
                    f"columns {show(column_of[name])} and {show(column)} both stand for the input {show(name)}; "
                    "remove or rename one"
                )
                problems.append(Problem("double_column", message, 1, column))
        if self._files_column is not None and self._files_column not in header and not self._typed:
            message = f"there is no column {show(self._files_column)} for the files; it has {_names(header)}"
            problems.append(Problem("missing_column", message, 1, self._files_column))
        # (column or key, input, required, converter, whether an explicit "" of JSONL is a value)
        self._plan: list[tuple[str, str, bool, to.Convert, bool]] = []
        for variable in self._variables:
            bound = column_of.get(variable.name)
            if self._typed:
                bound = self._id_column if variable.name == "id" else variable.name
            if variable.name in self._constants:
                continue
            if bound is not None:
                convert = self._converter(variable, typed=self._typed)
                is_text = self._typed and variable.type in TEXTS and not variable.filled
                self._plan.append((bound, variable.name, variable.required, convert, is_text))
            elif variable.required:
                problems.append(_missing(variable, unknown, header))
        # (column, key) of what is sent as it is
        others = [] if self._typed else [(column, column) for column in unknown if column != "id"]
        others += [pair for pair in self._renames.items() if pair[1] not in self._by_name and not self._typed]
        self._others = others
        if self._known and not self._typed:
            self.optional_columns = len(list(itertools.takewhile(bool, reversed(optional))))
        self.problems = tuple(problems)
        if self._known:
            self.warnings = tuple(self._warning(column) for column in unknown if column not in (self._id_column, "id"))

    def knows(self, column: str) -> bool:
        """Whether a column stands for an input of the app."""
        return self._known and self._key(column) is not None

    def _converter(self, variable: Variable, *, typed: bool) -> to.Convert:
        kind = variable.type
        if kind in TEXTS:
            return to.text(variable.max_length)
        if kind == "number":
            return to.number
        if kind == "select":
            return to.select(variable.options)
        if kind == "checkbox":
            return to.checkbox
        if kind == "json_object":
            return to.json_object_typed if typed else to.json_object
        if kind in FILES:
            return to.files(variable.rules, self._place, single=kind == "file")
        return to.plain

    def _warning(self, column: str) -> Notice:
        near = nearest(column, [*self._by_name, *self._by_label])
        cure = f"; did you mean {show(near)}?" if near is not None else ""
        message = f"column {show(column)} is no input of the app, and Dify drops it silently{cure}"
        return Notice("unknown_column", message)

    def takes(self, name: str) -> bool:
        """Whether the app's form has an input of this name."""
        return name in self._by_name

    def inputs(self, row: Row) -> tuple[Inputs, list[Problem]]:
        """What the run of a row is given, and what is wrong with it; with problems the inputs are incomplete.

        The id stands under the key "id", as text unless the form has an input of that name. Empty optional cells are
        left out: Dify refuses "" for a select and keeps it unchanged for a checkbox (dify-wire 06m, 06t). Columns
        that the app does not know are sent as they are.
        """
        cells = row.values
        values: dict[str, Any] = {"id": row.id}
        if self._constants:
            values |= self._constants
        problems: list[Problem] = []
        if self._typed:
            cells = self._rename(row, problems)
        for column, key, required, convert, empty_text in self._plan:
            cell = cells.get(column)
            if cell is None or (cell == "" and not empty_text):
                value: Any = to.EMPTY
            else:
                try:
                    value = convert(cell)
                except to.Refused as error:
                    problems.append(Problem(error.kind, error.message, row.line, column, row.id))
                    continue
            if value is not to.EMPTY:
                values[key] = value
            elif required:
                problems.append(self._required(row, column, key))
        for column, key in self._others if not self._typed else self._unknown(cells):
            try:
                values[key] = to.plain(cells[column])
            except to.Refused as error:
                problems.append(Problem(error.kind, error.message, row.line, column, row.id))
        if self._user is not None and self._user.columns and (fault := self._user.fault(row.values)) is not None:
            problems.append(Problem("bad_user", fault, row.line, self._user.columns[0], row.id))
        if not self._has_files:
            return Inputs(values), problems
        files = self._file_list(row, problems)
        return Inputs(values, files, bool(find_local(values, files))), problems

    def _required(self, row: Row, column: str, key: str) -> Problem:
        cure = "fill it in"
        if self._typed and self._by_name[key].type in TEXTS and not self._by_name[key].filled:
            cure = 'write "" for an empty text'
        what = "is missing" if self._typed and column not in row.values else "is empty"
        return Problem("required", f"the input is required and {what}; {cure}", row.line, column, row.id)

    def _rename(self, row: Row, problems: list[Problem]) -> dict[str, Any]:
        """The row's values by variable instead of label."""
        if not self._by_label and not self._renames and not self._constants:
            return row.values
        renamed: dict[str, Any] = {}
        for column, value in row.values.items():
            name = self._renames.get(column) or self._by_label.get(column, column)
            if name in self._constants:
                message = f"--set gives the input {show(name)} to each row, and this row has it too; leave one out"
                problems.append(Problem("double_key", message, row.line, column, row.id))
            if name in renamed or (name != column and name in row.values):
                message = f"{show(column)} and {show(name)} both stand for the input {show(name)}; remove one"
                problems.append(Problem("double_key", message, row.line, column, row.id))
            renamed[name] = value
        return renamed

    def _unknown(self, cells: Mapping[str, Any]) -> list[tuple[str, str]]:
        skipped = ("id", self._files_column, *ADDED)
        return [(key, key) for key in cells if key not in self._by_name and key not in skipped]

    def _file_list(self, row: Row, problems: list[Problem]) -> list[Any] | None:
        cell = None if self._files_column is None else row.values.get(self._files_column)
        if cell is None or cell == "":
            return None
        try:
            found = self._files(cell)
        except to.Refused as error:
            problems.append(Problem(error.kind, error.message, row.line, self._files_column, row.id))
            return None
        return None if found is to.EMPTY else list(found)


def _missing(variable: Variable, unknown: list[str], header: tuple[str, ...]) -> Problem:
    near = nearest(variable.name, unknown) or nearest(variable.label, unknown)
    cure = f"rename column {show(near)} to it" if near is not None else f"add it; there are {_names(header)}"
    message = f"the app requires the input {show(variable.name)}, and no column has this name: {cure}"
    return Problem("missing_column", message, 1, variable.name)


def _names(header: tuple[str, ...]) -> str:
    return ", ".join(map(show, header[:10])) + (", …" if len(header) > 10 else "")
