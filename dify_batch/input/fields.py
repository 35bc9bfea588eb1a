"""The variables of an app's form, as GET /parameters gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dify_batch.input.filetypes import FileRules

TEXTS = ("paragraph", "text-input")
FILES = ("file", "file-list")


@dataclass(frozen=True, slots=True)
class Variable:
    """One entry of the form (`user_input_form` of GET /parameters, dify-wire 19). `filled`: an empty text will not
    do, as for the message of a chat (dify-wire 32l)."""

    name: str
    label: str
    type: str
    required: bool
    max_length: int = 0
    options: tuple[str, ...] = ()
    rules: FileRules = field(default_factory=FileRules)
    filled: bool = False


def variable_of(type_: str, body: Mapping[str, Any], limits: Mapping[str, Any]) -> Variable:
    """The variable of one entry `{type: body}` of the form; `limits`: `system_parameters` of the same answer."""
    name = body["variable"]
    label = body.get("label")
    most = natural(body.get("max_length"))
    options = body.get("options")
    return Variable(
        name=name,
        label=label if isinstance(label, str) and label else name,
        type=type_,
        required=bool(body.get("required")),
        max_length=most,
        options=tuple(o for o in options if isinstance(o, str)) if isinstance(options, list) else (),
        rules=FileRules.of(body, limits, 1 if type_ == "file" else most),
    )


def natural(value: object) -> int:
    """A whole number above 0, else 0: what is no limit."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
