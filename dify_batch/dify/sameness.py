"""Whether the inputs that a run was given are those of a row. Pure.

Run detail gives them as JSON text, with Dify's own `sys.` keys and coerced types. Facts come from recorded exchanges of
a Dify 1.14.2 server; the numbers in brackets name them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dify_batch.strictjson import json_object


def same_inputs(sent: Mapping[str, Any], recorded: str | None) -> bool:
    """Whether the `inputs` of run detail (JSON text with Dify's `sys.` keys and coerced types) are those of a row.

    Only names that both sides know are compared: Dify drops unknown names [06n], and gives null for what was left out.
    """
    theirs = json_object(recorded or "")
    if theirs is None:
        return False
    common = [name for name in sent if name in theirs and not name.startswith("sys.")]
    if not common:
        return False
    for name in theirs:
        if name.startswith("sys.") or name in sent:
            continue
        if theirs[name] not in (None, "", [], {}):
            return False
    return all(_alike(sent[name], theirs[name]) for name in common)


def contradicts(sent: Mapping[str, Any], recorded: str | None) -> bool:
    """Whether a text or number of the row differs from what the run was given, so that the run cannot be the row's.

    Only those are compared, and only where both sides have one: files are uploaded anew for each attempt, and what was
    left out may have a default.
    """
    theirs = json_object(recorded or "")
    if theirs is None:
        return False
    return any(
        isinstance(ours, str | int | float)
        and isinstance(theirs.get(name), str | int | float)
        and not _alike(ours, theirs[name])
        for name, ours in sent.items()
        if not name.startswith("sys.")
    )


def _alike(ours: Any, theirs: Any) -> bool:
    if ours == theirs or not (ours is None or isinstance(ours, str | bool | int | float | list | dict)):
        return True  # a file that is uploaded anew for each attempt says nothing
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return _same_file(ours, theirs) if "transfer_method" in ours else _same_object(ours, theirs)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(_alike, ours, theirs))
    if isinstance(ours, str) and isinstance(theirs, str):
        return ours.replace("\0", "") == theirs  # NUL is removed silently [22b]
    if isinstance(theirs, bool) or isinstance(ours, bool):
        return _as_flag(ours) is not None and _as_flag(ours) == _as_flag(theirs)
    if isinstance(ours, str) and isinstance(theirs, list | dict):
        parsed = json_object(f'{{"value": {ours}}}')  # an object written as text in a cell
        return parsed is not None and set(parsed) == {"value"} and _alike(parsed["value"], theirs)
    if theirs is None:
        return ours == ""
    return _as_number(ours) is not None and _as_number(ours) == _as_number(theirs)


def _as_number(value: Any) -> float | None:
    """Numbers come as text and go as numbers, and integers over 64 bit come back as floats [06a, 06i]."""
    if isinstance(value, str | int | float):
        try:
            return float(value)
        except (ValueError, OverflowError):
            return None
    return None


def _as_flag(value: Any) -> bool | None:
    return {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}.get(
        str(value).strip().lower() if isinstance(value, str | int | float) else ""
    )


def _same_object(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    return ours.keys() == theirs.keys() and all(_alike(ours[name], theirs[name]) for name in ours)


def _same_file(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    name, recorded = ("url", "remote_url") if "url" in ours else ("upload_file_id", "related_id")
    return ours.get(name) is not None and theirs.get(recorded) == ours.get(name)
