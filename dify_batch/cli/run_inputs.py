"""The inputs of one run out of what was typed, held against the app's form. Pure, but for the look at files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dify_batch import strictjson
from dify_batch.errors import UsageError
from dify_batch.input import values
from dify_batch.input.fields import FILES, Variable
from dify_batch.input.files import FilePlace, FileRefused, resolve
from dify_batch.input.filetypes import FileRules
from dify_batch.input.form import Form
from dify_batch.text import nearest

_CONVERT = {"number": values.number, "checkbox": values.checkbox, "json_object": values.json_object}


def pairs(given: Sequence[str], flag: str) -> list[tuple[str, str]]:
    """`name=value` of each. Raises UsageError."""
    found = []
    for text in given:
        name, mark, value = text.partition("=")
        if not mark or not name.strip():
            raise UsageError(
                f'{flag}: "{text}" is not name=value', code="usage_invalid_flag", hint=f"write it as {flag} query=hello"
            )
        found.append((name.strip(), value))
    return found


def read_inputs(text: str | None) -> dict[str, Any]:
    """The object of --inputs: JSON, or @FILE with it. Raises UsageError."""
    if text is None:
        return {}
    where = "--inputs"
    if text.startswith("@"):
        where = text[1:]
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{where} cannot be read: {error}", code="usage_invalid_flag") from None
    try:
        found = strictjson.parse(text)
    except strictjson.NotJson as error:
        raise UsageError(f"{where}: {error}", code="usage_invalid_flag") from None
    if not isinstance(found, dict):
        hint = """--inputs '{"query": "hello"}'"""
        raise UsageError(f"{where} is no JSON object", code="usage_invalid_flag", hint=hint)
    return found


def inputs_of(
    form: Form, whole: Mapping[str, Any], single: Sequence[tuple[str, str]], files: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """What a run is given; files are LocalFile, to be uploaded, or Dify's mappings of remote ones.

    Args:
        whole: --inputs, taken as it is.
        single: --input, read by the type of its field.
        files: --file: paths or URLs; the same name again adds to a list of files.

    Raises:
        UsageError: a value cannot be one of its field, or a file cannot be used.
    """
    fields = {variable.name: variable for variable in form.variables}
    found = dict(whole)
    for name, text in single:
        found[name] = _value(fields.get(name), name, text)
    named: dict[str, list[str]] = {}
    for name, path in files:
        named.setdefault(name, []).append(path)
    for name, paths in named.items():
        found[name] = _files(fields.get(name), name, paths)
    return found


def _value(field: Variable | None, name: str, text: str) -> Any:
    if field is None or field.type not in _CONVERT:
        return text
    try:
        value = _CONVERT[field.type](text)
    except values.Refused as error:
        raise UsageError(f"--input {name}: {error.message}", code="usage_invalid_flag") from None
    return None if isinstance(value, values.Empty) else value


def _files(field: Variable | None, name: str, paths: list[str]) -> Any:
    rules = FileRules() if field is None else field.rules
    try:
        found = resolve(paths, rules, FilePlace(Path.cwd(), Path(Path.cwd().anchor)))
    except FileRefused as error:
        raise UsageError(f"--file {name}: {error.message}", code="usage_invalid_flag") from None
    many = (field is not None and field.type == "file-list") or (field is None and len(found) > 1)
    return found if many else found[0]


def unknown_names(form: Form, inputs: Mapping[str, Any]) -> list[str]:
    """A warning for each input that the app drops, with what was probably meant."""
    if not form.known:
        return []
    names = [variable.name for variable in form.variables]
    found = []
    for name in inputs:
        if name not in names:
            near = nearest(name, names)
            found.append(f'the app has no input "{name}" and drops it' + (f"; did you mean {near}?" if near else ""))
    return found


def required_names(form: Form) -> str:
    """For the hint of a refusal: what the app must be given."""
    names = [f"{v.name} (--file)" if v.type in FILES else v.name for v in form.variables if v.required]
    return f"the app requires: {', '.join(names)}" if names else "the app requires no input"


def dumped(value: Any) -> str:
    """A value of an output for people: text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)
