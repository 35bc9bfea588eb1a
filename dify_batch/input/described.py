"""The app's form in words, and what an example of each input looks like. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dify_batch.input.fields import FILES, TEXTS, Variable
from dify_batch.input.form import Form
from dify_batch.text import printable

_KINDS = {
    "text-input": "text",
    "paragraph": "long text",
    "number": "number",
    "select": "one of",
    "checkbox": "true or false",
    "json_object": "a JSON object",
    "file": "a file: a path or an address",
    "file-list": "files: paths or addresses, with | between them",
}


def kind_of_input(variable: Variable) -> str:
    """What a cell of this input holds: `text of at most 48 characters`, `one of formal, casual`."""
    kind = _KINDS.get(variable.type, variable.type)
    if variable.type == "select":
        return f"{kind} {', '.join(variable.options)}"
    if variable.type in TEXTS and variable.max_length:
        return f"{kind} of at most {variable.max_length} characters"
    if variable.type == "file-list" and variable.max_length:
        return f"at most {variable.max_length} {kind}"
    return kind


def example_of(variable: Variable) -> str:
    """A cell that the form takes; nothing for a file, since nobody can know one that exists."""
    match variable.type:
        case "select":
            return variable.options[0] if variable.options else ""
        case "number":
            return "1"
        case "checkbox":
            return "true"
        case "json_object":
            return "{}"
        case name if name in FILES:
            return ""
    text = f"an example of {variable.label}"
    return text[: variable.max_length] if variable.max_length else text


@dataclass(frozen=True, slots=True)
class FormReport:
    """The form of one app, as `dify-batch form` shows it. `info`: the answer of GET /info."""

    form: Form
    info: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """{"app": {name, mode, description}, "inputs": [{name, label, type, required, max_length?, options?}]}"""
        inputs = []
        for variable in self.form.variables:
            one: dict[str, Any] = {
                "name": variable.name,
                "label": variable.label,
                "type": variable.type,
                "required": variable.required,
            }
            if variable.max_length:
                one["max_length"] = variable.max_length
            if variable.options:
                one["options"] = list(variable.options)
            inputs.append(one)
        app = {key: self.info.get(key) for key in ("name", "mode", "description")}
        return {"app": app, "inputs": inputs}

    def text(self) -> str:
        rows = [("input", "", "what a cell holds", "label")]
        for variable in self.form.variables:
            need = "required" if variable.required else "optional"
            label = "" if variable.label == variable.name else variable.label
            rows.append((variable.name, need, kind_of_input(variable), label))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [f"{self.info.get('name') or 'the app'} ({self.info.get('mode') or 'of unknown kind'})", ""]
        if len(rows) == 1:
            lines.append("The app asks for no input.")
        else:
            for row in rows:
                cells = [cell.ljust(width) for cell, width in zip(row[:3], widths, strict=True)]
                lines.append("  ".join((*cells, row[3])).rstrip())
        return printable("\n".join(lines), keep="\n")
