"""How flags are said: as words of a command that is printed as a next step, and as defaults for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dify_batch.errors import UsageError
from dify_batch.flags import BY_NAME, FLAGS, Flag
from dify_batch.flagvalues import UNITS


def again(values: Mapping[str, Any]) -> list[str]:
    """The flags, as words of a command, that repeat what decides: those of `values` (dest → value) that are not the
    default. Whoever pastes a printed command gets the same policy, delimiter, user and so on."""
    words: list[str] = []
    for flag in FLAGS:
        value = values.get(flag.dest, flag.default)
        if not flag.again or not flag.names or flag.required or value == flag.default or value is None:
            continue
        if flag.action == "list":
            for name, item in value.items():
                words += [flag.name, f"{name}={item}"]
        else:
            words += [flag.name] if flag.action in ("on", "off") else [flag.name, as_word(flag, value)]
    return words


def read_again(words: Sequence[str]) -> dict[str, Any]:
    """The values (dest → value) that `again` wrote as words; what is no flag or no value is passed over."""
    found: dict[str, Any] = {}
    left = list(reversed(words))
    while left:
        flag = BY_NAME.get(left.pop())
        if flag is None:
            continue
        if flag.action in ("on", "off"):
            found[flag.dest] = flag.action == "on"
        elif left and flag.action == "value":
            text = left.pop()
            try:
                found[flag.dest] = flag.read(text, flag.name)
            except UsageError:
                continue
    return found


def as_word(flag: Flag, value: Any) -> str:
    """A value as it is typed; `flag.read` gives it back."""
    if flag.dest == "rate":
        unit = next(unit for unit in ("s", "m", "h") if value * UNITS[unit] >= 1 or unit == "h")
        return f"{_decimal(value * UNITS[unit])}/{unit}"
    if flag.dest == "delimiter":
        return "tab" if value == "\t" else str(value)
    return _decimal(value) if isinstance(value, float) else str(value)


def _decimal(value: float) -> str:
    """Without an exponent, which no flag takes."""
    return str(int(value)) if value == int(value) else f"{value:.12f}".rstrip("0")


def shown_default(flag: Flag) -> str:
    """The default as people read it: "required", "off" for a switch, empty where there is nothing to say."""
    if flag.required:
        return "required"
    if flag.shown or flag.action in ("help", "version"):
        return flag.shown
    return "none" if flag.action == "value" else "off"
