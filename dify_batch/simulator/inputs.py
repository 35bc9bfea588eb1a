"""The check of a run's inputs against the form, with Dify's own messages (dify-wire section 3). Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

FileResolver = Callable[[object], dict[str, Any]]
"""One file mapping as posted -> the file as Dify stores it; raises InputError."""

_INT64 = 2**63


@dataclass(frozen=True, slots=True)
class Field:
    """One input of an app's form. `type` is Dify's: paragraph, text-input, number, select, checkbox, json_object,
    file, file-list."""

    variable: str
    type: str
    required: bool = False
    label: str = ""
    max_length: int | None = None
    options: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """The entry of `user_input_form` in GET /parameters (dify-wire 19)."""
        entry: dict[str, Any] = {
            "variable": self.variable,
            "label": self.label or self.variable,
            "type": self.type,
            "required": self.required,
            "max_length": self.max_length,
            "options": list(self.options),
        }
        if self.type in ("file", "file-list"):
            entry["allowed_file_types"] = ["document", "image", "custom"]
            entry["allowed_file_extensions"] = [".txt", ".csv", ".md"]
            entry["allowed_file_upload_methods"] = ["local_file", "remote_url"]
        return {self.type: entry}


class InputError(ValueError):
    """A bad input. crash: Dify answers it with a bare 500 in blocking mode (dify-wire 06g)."""

    def __init__(self, message: str, crash: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.crash = crash


def check_inputs(form: tuple[Field, ...], inputs: Mapping[str, object], files: FileResolver) -> dict[str, Any]:
    """The inputs as the run gets them: only the form's, all of them, null where left out.

    Raises InputError at the first bad one, in the order of the form.
    """
    return {f.variable: _checked(f, inputs.get(f.variable), files) for f in form}


def _checked(field: Field, value: object, files: FileResolver) -> Any:
    name = field.variable
    if value is None:
        if field.required:
            raise InputError(f"{name} is required in input form")
        return None
    if field.type in ("paragraph", "text-input", "select"):
        return _text(field, value)
    if field.type == "number":
        return _number(name, value)
    if field.type == "checkbox":
        return _checkbox(value)
    if field.type == "json_object":
        if isinstance(value, dict) or value == "":
            return value
        raise InputError(f"{name} in input form must be a dict")
    return _files(field, value, files)


def _text(field: Field, value: object) -> str:
    name = field.variable
    if not isinstance(value, str):
        raise InputError(f"(type '{field.type}') {name} in input form must be a string")
    if field.type == "select" and value not in field.options:
        raise InputError(f"{name} in input form must be one of the following: {list(field.options)}")
    if field.max_length and len(value) > field.max_length:
        raise InputError(f"{name} in input form must be less than {field.max_length} characters")
    return value.replace("\x00", "")  # silently, and only in texts (dify-wire 22b, 22c)


def _number(name: str, value: object) -> object:
    if isinstance(value, str):
        if value == "":
            return None
        try:
            value = float(value) if "." in value else int(value)
        except ValueError:
            raise InputError(f"{name} in input form must be a valid number") from None
    if not isinstance(value, int | float):
        raise InputError(f"expected value type int, float or str, got {type(value)}, value: {value}", crash=True)
    if isinstance(value, int) and not -_INT64 <= value < 2 * _INT64:
        return float(value)  # dify-wire 06i
    return value


def _checkbox(value: object) -> object:
    if isinstance(value, str):
        word = value.strip().lower()
        return {"true": True, "1": True, "yes": True, "on": True}.get(
            word, {"false": False, "0": False, "no": False, "off": False}.get(word, value)
        )
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    return value


def _files(field: Field, value: object, files: FileResolver) -> object:
    name = field.variable
    if value == "" and not field.required:
        return None
    if field.type == "file":
        if not isinstance(value, dict):
            raise InputError(f"{name} in input form must be a file")
        return files(value)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InputError(f"{name} in input form must be a list of files")
    if field.max_length and len(value) > field.max_length:
        raise InputError(f"{name} in input form must be less than {field.max_length} files")
    return [files(item) for item in value]
