"""An empty table that an app's form accepts: CSV, or a workbook with drop-down lists and a comment for each column."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dify_batch.errors import UsageError
from dify_batch.input.described import example_of, kind_of_input
from dify_batch.input.fields import Variable
from dify_batch.input.form import Form
from dify_batch.ledger.disk import Disk
from dify_batch.ledger.formats import BOM

if TYPE_CHECKING:
    import xlsxwriter

ROWS = 1000  # rows of a workbook that get the drop-down lists; a person who needs more fills them down
LONGEST_LIST = 255  # characters of all options that Excel takes in a list of its own
WIDEST = 60  # characters: wider columns are hard to read side by side


@dataclass(frozen=True, slots=True)
class Template:
    """A table that was written."""

    path: Path
    columns: tuple[str, ...]
    required: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return {"output": str(self.path), "columns": list(self.columns), "required": list(self.required)}

    def text(self) -> str:
        need = f"; to be filled: {', '.join(self.required)}" if self.required else ""
        return (
            f"{self.path}: columns {', '.join(self.columns)}{need}\n"
            f"Fill it, then: dify-batch -i {self.path} -o results.jsonl --dry-run"
        )


def write_template(
    form: Form, path: Path, *, example: bool = False, bom: bool = True, disk: Disk | None = None
) -> Template:
    """Writes the table. The first column is `id`, unless the form has an input of that name, which then is the first.

    Raises:
        UsageError: the name ends neither in .csv nor in .xlsx, the file exists, or the extra is not installed.
        StorageError: the file cannot be written.
    """
    if path.exists():
        raise UsageError(f"{path} exists", hint="name another file after -o, or remove it", code="usage_invalid_flag")
    named = sorted(form.variables, key=lambda variable: variable.name != "id")
    own = [] if named and named[0].name == "id" else [Variable("id", "id", "text-input", True)]
    variables = [*own, *named]
    cells = [_example(variable) for variable in variables] if example else None
    match path.suffix.lower():
        case ".csv":
            data = _csv(variables, cells, bom=bom)
        case ".xlsx":
            data = _xlsx(variables, cells)
        case _:
            raise UsageError(
                f"{path} is neither .csv nor .xlsx", hint="such as -o data.xlsx", code="usage_invalid_flag"
            )
    (disk or Disk()).replace(path, data)
    return Template(
        path,
        tuple(variable.name for variable in variables),
        tuple(variable.name for variable in variables if variable.required),
    )


def _example(variable: Variable) -> str:
    return "row-1" if variable.name == "id" else example_of(variable)


def _csv(variables: list[Variable], cells: list[str] | None, *, bom: bool) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([variable.name for variable in variables])
    if cells is not None:
        writer.writerow(cells)
    return (BOM if bom else b"") + text.getvalue().encode("utf-8")


def _xlsx(variables: list[Variable], cells: list[str] | None) -> bytes:
    try:
        import xlsxwriter
    except ImportError:
        raise UsageError(
            "a template as .xlsx needs xlsxwriter",
            hint="install dify-batch[xlsx], or name a .csv file",
            code="usage_invalid_flag",
        ) from None
    data = io.BytesIO()
    # No cell is a formula or a link, whatever a label or an option says.
    options = {"in_memory": True, "strings_to_formulas": False, "strings_to_urls": False}
    with xlsxwriter.Workbook(data, options) as book:
        sheet = book.add_worksheet("data")
        lists = book.add_worksheet("lists")
        lists.hide()
        plain, needed = book.add_format({"bold": True}), book.add_format({"bold": True, "bg_color": "#FFE699"})
        as_text = book.add_format({"num_format": "@"})
        as_lines = book.add_format({"num_format": "@", "text_wrap": True, "valign": "top"})
        sheet.freeze_panes(1, 1)
        for column, variable in enumerate(variables):
            sheet.write_string(0, column, variable.name, needed if variable.required else plain)
            sheet.write_comment(0, column, _comment(variable), {"x_scale": 2})
            width = min(WIDEST, max(12, len(variable.name) + 4, 40 if variable.type == "paragraph" else 0))
            # Ids and texts stay as they are typed: 007 is no number, 1-2 no date.
            free = variable.type in ("number", "checkbox")
            sheet.set_column(
                column, column, width, None if free else as_lines if variable.type == "paragraph" else as_text
            )
            if cells is not None:
                sheet.write_string(1, column, cells[column], as_lines if variable.type == "paragraph" else None)
            _validate(sheet, lists, column, variable)
    return data.getvalue()


def _comment(variable: Variable) -> str:
    if variable.name == "id":
        return "The id of the row. Required, and each id once."
    label = "" if variable.label == variable.name else f"{variable.label}. "
    return f"{label}{'Required' if variable.required else 'Optional'}: {kind_of_input(variable)}."


def _validate(
    sheet: xlsxwriter.worksheet.Worksheet, lists: xlsxwriter.worksheet.Worksheet, column: int, variable: Variable
) -> None:
    from xlsxwriter.utility import xl_col_to_name

    options = ["true", "false"] if variable.type == "checkbox" else list(variable.options)
    if variable.type in ("select", "checkbox") and options:
        source: Any = options
        if len(",".join(options)) > LONGEST_LIST or any("," in option for option in options):
            for row, option in enumerate(options):
                lists.write_string(row, column, option)
            name = xl_col_to_name(column)
            source = f"=lists!${name}$1:${name}${len(options)}"
        sheet.data_validation(1, column, ROWS, column, {"validate": "list", "source": source})
    elif variable.type in ("text-input", "paragraph") and variable.max_length:
        sheet.data_validation(
            1,
            column,
            ROWS,
            column,
            {
                "validate": "length",
                "criteria": "<=",
                "value": variable.max_length,
                "error_title": "Too long",
                "error_message": f"At most {variable.max_length} characters.",
            },
        )
