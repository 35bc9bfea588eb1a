"""The settings that stand in the environment and in a `.env` file: read, and refused where they came out otherwise than
they were meant. No part of a line is ever shown: it may be the key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from io import StringIO
from pathlib import Path

from dify_batch.errors import UsageError
from dify_batch.flags import BY_ENV
from dify_batch.text import nearest

_MAY_BE_OURS = re.compile(r"DIFY|app-|" + "|".join(map(re.escape, BY_ENV)), re.IGNORECASE)


def read_env_file(
    path: Path, *, required: bool, warnings: list[str], environ: Mapping[str, str] | None = None
) -> dict[str, str]:
    """NAME → value of a `.env` file (dotenv syntax); {} where there is none and none is `required`.

    `${NAME}` is looked for in the lines above and in `environ`. Lines of other programs are passed over; adds a warning
    for those that are none, and where others can read a file that holds the key.

    Raises:
        UsageError: the file cannot be read, or a line that may be ours is no setting, or names what is set nowhere.
    """
    if not required and not path.is_file():
        return {}  # a folder named .env is somebody's virtual environment
    try:
        raw, mode = path.read_bytes(), path.stat().st_mode
    except OSError as error:
        hint = f"make it readable: chmod 600 {path}" if isinstance(error, PermissionError) else "check the path"
        raise UsageError(f'the settings file "{path}" cannot be read: {error.strerror}', hint=hint) from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}, line {line}: not UTF-8 text", hint="save the file as UTF-8") from None
    values = _values(text, path, environ or {}, warnings)
    if os.name == "posix" and values.get("DIFY_API_KEY") and mode & 0o044:
        warnings.append(f"Others can read {path}, and it holds DIFY_API_KEY. Type: chmod 600 {path}")
    return values


def _values(text: str, path: Path, environ: Mapping[str, str], warnings: list[str]) -> dict[str, str]:
    from dotenv.parser import parse_stream
    from dotenv.variables import Variable, parse_variables

    values: dict[str, str] = {}
    first: dict[str, int] = {}
    for binding in parse_stream(StringIO(text)):
        whole = binding.original.string
        text_before = whole[: -len(whole.lstrip()) or None]
        line = binding.original.line + text_before.count("\n")  # blank lines before it belong to it
        name, value = binding.key, binding.value
        if binding.error or (name is not None and value is None) or "\0" in whole:
            if "\0" in whole or _MAY_BE_OURS.search(whole):
                raise UsageError(f"{path}, line {line}: not NAME=value", hint="correct the line, or put # before it")
            warnings.append(f"{path}, line {line}: not NAME=value, passed over")
            continue
        if name is None or value is None:
            continue
        if first.setdefault(name, line) != line:
            before, first[name] = first[name], line
            warnings.append(f"{path}: {name} is set on line {before} and again on line {line}; the last one counts")
        known = {**environ, **values}
        resolved = []
        for atom in parse_variables(value):
            if isinstance(atom, Variable) and atom.default is None and atom.name not in known and name in BY_ENV:
                raise UsageError(
                    f"{path}, line {line}: {name} takes its value from ${{{atom.name}}}, which is set nowhere",
                    hint=f"set {atom.name}, or write the value itself as {name}=...",
                )
            resolved.append(atom.resolve(known))
        values[name] = "".join(resolved)
    return values


def unquoted(name: str, value: str) -> str:
    """A value from the environment. Raises UsageError where it stands in quotes, as `docker run --env-file` hands them
    on: there they belong to the value."""
    text = value.strip()
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        mended = "..." if name == "DIFY_API_KEY" else text[1:-1]
        raise UsageError(
            f"{name} has quotes around its value, which belong to the value here",
            hint=f"write it without them: {name}={mended} (docker run --env-file hands them on as they are)",
        )
    return value


def require_some(name: str, value: str, where: str) -> None:
    """Raises UsageError for an address that was meant to be given and came out empty: it must not become that of the
    public cloud."""
    if name == "DIFY_API_BASE_URL" and not value.strip():
        raise UsageError(
            f"{name} is there and empty, in {where}",
            hint=f"give it the address of your Dify, such as {name}=https://dify.example.com/v1; for Dify's cloud take "
            "it out altogether",
        )


def require_one_place(environ: Mapping[str, str], file: Mapping[str, str], where: str) -> None:
    """Raises UsageError where the key of the environment would go to an address out of a `.env` of the working
    directory: whoever put that file there would get the key."""
    key, url = environ.get("DIFY_API_KEY", "").strip(), file.get("DIFY_API_BASE_URL", "").strip()
    if not key or not url or "DIFY_API_BASE_URL" in environ or file.get("DIFY_API_KEY", "").strip() == key:
        return
    if url.rstrip("/") == BY_ENV["DIFY_API_BASE_URL"].default:
        return
    raise UsageError(
        f"the key is from the environment, and the address that it would be sent to from the file {where}",
        hint=f"if you mean it: --env-file {where}; else set DIFY_API_BASE_URL in the environment, too",
    )


def unknown_names(environ: Iterable[str], file: Iterable[str]) -> list[str]:
    """A warning for each variable that looks like ours and is not, with the nearest that is.

    In the file any name that is nearly one of ours is meant for us; the environment is everybody's.
    """
    ours = ("DIFY_BATCH_", "DIFY_API_")
    unknown = {name for name in (*environ, *file) if name.startswith(ours)}
    unknown |= {name for name in environ if name.startswith("DIFY_") and _nearest(name, 0.85)}
    unknown |= {name for name in file if _nearest(name, 0.8)}
    warnings = []
    for name in sorted(unknown - BY_ENV.keys()):
        near = _nearest(name, 0.5)
        warnings.append(f"{name} is no setting and is ignored." + (f" Did you mean {near}?" if near else ""))
    return warnings


_EVERYBODYS = ("KEY", "LOG_FORMAT", "MODE", "USER")  # a .env that several programs share may have these for another


def _nearest(name: str, cutoff: float) -> str | None:
    """The setting that was probably meant: one prefix more or less, other letters, or a slip of the hand."""
    upper = name.upper()
    bare = upper.removeprefix("DIFY_BATCH_").removeprefix("DIFY_")
    for meant in (upper, bare, f"DIFY_BATCH_{bare}", f"DIFY_{bare}", f"DIFY_API_{bare}"):
        if meant in BY_ENV and upper not in _EVERYBODYS:
            return meant
    return nearest(upper, BY_ENV, cutoff)
