"""The app's input form against the columns of a file: what each cell becomes, and what Dify would refuse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dify_batch.input.bound import BoundForm
from dify_batch.input.fields import Variable, natural, variable_of
from dify_batch.input.files import FilePlace, Inputs
from dify_batch.input.filetypes import FileRules
from dify_batch.input.user import UserTemplate

__all__ = ["BoundForm", "Form", "Inputs", "Variable"]


@dataclass(frozen=True, slots=True)
class Form:
    """The inputs that an app asks for.

    Attributes:
        variables: in the form's order.
        known: False if the form was not asked for; then every cell is sent as it is.
        files: rules of the app's own `files` list.
    """

    variables: tuple[Variable, ...] = ()
    known: bool = True
    files: FileRules = field(default_factory=FileRules)

    @classmethod
    def absent(cls) -> Form:
        """No form (--no-preflight): every cell is sent as it is, as text."""
        return cls(known=False)

    @classmethod
    def from_parameters(cls, body: Mapping[str, Any]) -> Form:
        """The form of an answer of GET /parameters (dify-wire 19-parameters-W1, 19b).

        Entries are `{type: {variable, label, required, max_length, options, …}}`. A type that is not known yet is
        taken for text. An answer without a form counts as none.
        """
        entries = body.get("user_input_form")
        if not isinstance(entries, list):
            return cls.absent()
        limits = body.get("system_parameters")
        limits = limits if isinstance(limits, dict) else {}
        variables = []
        for entry in entries:
            for key, value in entry.items() if isinstance(entry, dict) else ():
                if isinstance(value, dict) and isinstance(value.get("variable"), str):
                    variables.append(variable_of(key, value, limits))
        upload = body.get("file_upload")
        rules = FileRules(limits=limits)
        if isinstance(upload, dict) and upload.get("enabled"):
            rules = FileRules.of(upload, limits, natural(upload.get("number_limits")))
        return cls(tuple(variables), True, rules)

    def with_message(self, name: str) -> Form:
        """The form of an app that is asked with a message: its column stands first, is required and not empty. An
        input of the same name gets the same text."""
        if not self.known:
            return self
        own = next((variable for variable in self.variables if variable.name == name), None)
        message = own if own is not None else Variable(name, "Message", "paragraph", required=True)
        message = replace(message, required=True, filled=True)
        others = tuple(variable for variable in self.variables if variable is not own)
        return replace(self, variables=(message, *others))

    def has(self, name: str) -> bool:
        """Whether the app's form has an input of this name."""
        return any(variable.name == name for variable in self.variables)

    def bind(
        self,
        source_header: tuple[str, ...],
        *,
        id_column: str,
        files_column: str | None = None,
        base_dir: Path,
        typed: bool = False,
        files_root: Path | None = None,
        user: str | None = None,
        constants: Mapping[str, Any] | None = None,
        renames: Mapping[str, str] | None = None,
    ) -> BoundForm:
        """The form for the columns of one file.

        Args:
            source_header: `RowSource.header`.
            id_column: `RowSource.id_column`.
            files_column: its cells fill the request's own `files` list instead of an input.
            base_dir: where relative paths of files begin.
            typed: `RowSource.typed`: each row may have other keys, so columns are looked up row by row.
            files_root: the folder below which cells may name files (--files-root); None for `base_dir`.
            user: the text of --user; what it makes of each row is checked.
            constants: input → text that each row is given (--set); from Python any value that JSON has.
            renames: column → the input that it stands for (--map).

        Raises:
            UsageError: a constant, a renamed column or the user cannot be what is asked for.
        """
        place = FilePlace(base_dir, files_root)
        return BoundForm(
            self.variables if self.known else None,
            self.files,
            source_header,
            id_column,
            files_column,
            place,
            typed,
            user=None if user is None else UserTemplate(user),
            constants=constants or {},
            renames=renames or {},
        )
