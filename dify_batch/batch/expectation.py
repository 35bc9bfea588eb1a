"""--expect: the JSON Schema that outputs have to fit, read and checked before anything is sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from dify_batch.engine.expecting import Expectation
from dify_batch.errors import UsageError
from dify_batch.strictjson import NotJson, parse
from dify_batch.text import one_line, show

EXTRA = 'install it: pip install "dify-batch[expect]"'
_SHOWN = 300  # characters of what is wrong with an answer: it quotes the answer


def read_expectation(path: Path) -> Expectation:
    """The expectation of a schema file. `format` is passed over, as most tools do unless they are told otherwise.

    Raises UsageError: there is no such file, it holds no JSON Schema, or jsonschema is not installed.
    """
    name = f"--expect {show(str(path), 200)}"
    try:
        from jsonschema import exceptions, validators
        from referencing import Registry
        from referencing.exceptions import Unresolvable
    except ImportError:
        raise UsageError(
            "--expect needs an extra that is not installed", code="usage_invalid_flag", hint=EXTRA
        ) from None
    schema = _schema(path, name)
    kind = validators.validator_for(schema, default=validators.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except exceptions.SchemaError as error:
        where = f" at {error.json_path}" if error.path else ""
        raise _wrong(name, f"is no JSON Schema{where}: {one_line(error.message, _SHOWN)}") from None
    for reference in _references(schema):
        if not _leads_somewhere(schema, reference):
            raise _wrong(name, f'refers to "{one_line(reference, 100)}", which is not in it')
    validator = kind(schema, registry=Registry())  # one that fetches nothing

    def misses(outputs: Any) -> str | None:
        try:
            error = exceptions.best_match(validator.iter_errors(outputs))
        except RecursionError:
            return "the outputs are nested too deeply to be checked"
        except Unresolvable as unresolved:
            return f"the schema refers to what is not in it: {one_line(str(unresolved), _SHOWN)}"
        if error is None:
            return None
        return f"outputs{error.json_path.removeprefix('$')}: {one_line(error.message, _SHOWN)}"

    return Expectation(name, misses)


def _schema(path: Path, name: str) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise _wrong(name, "is no UTF-8 text") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _wrong(name, f"cannot be read: {reason}") from None
    try:
        schema = parse(text)
    except NotJson as error:
        raise _wrong(name, f"is no JSON: {error}") from None
    if not isinstance(schema, dict):
        raise _wrong(name, 'is no JSON Schema: it is an object, such as {"required": ["answer"]}')
    return schema


def _references(value: Any) -> Iterator[str]:
    """Each `$ref` of a schema; in what is data, and no schema, there are none."""
    if isinstance(value, dict):
        if isinstance(reference := value.get("$ref"), str):
            yield reference
        for key, item in value.items():
            if key not in ("const", "enum", "default", "examples"):
                yield from _references(item)
    elif isinstance(value, list):
        for item in value:
            yield from _references(item)


def _leads_somewhere(schema: Any, reference: str) -> bool:
    """Whether a reference is answered by the file itself. One by a name (an anchor, an `$id`) is believed."""
    if not reference.startswith("#/"):
        return reference.startswith("#") or f'"$id": {json.dumps(reference)}' in json.dumps(schema)
    place = schema
    for part in unquote(reference[2:]).split("/"):
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(place, list) and key.isdigit() and int(key) < len(place):
            place = place[int(key)]
        elif isinstance(place, dict) and key in place:
            place = place[key]
        else:
            return False
    return True


def _wrong(name: str, what: str) -> UsageError:
    return UsageError(f"{name} {what}", hint="nothing was sent; see https://json-schema.org", code="usage_invalid_flag")
