"""Settings: from the flag, else the environment, else `.env`; checked once, here, and never changed later.

`Settings(input=..., output=..., api_key=...)` is the Python API and applies the same checks as
`load_settings`, which the command line uses. Nothing here prints, and nothing changes the environment
of the process.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from dify_batch.addressing import check_key, check_workflow_id, mask_url, read_base_url
from dify_batch.contradictions import check_account, check_together, check_values
from dify_batch.envfile import read_env_file, require_one_place, require_some, unknown_names, unquoted
from dify_batch.errors import AuthError, UsageError
from dify_batch.flags import BY_DEST, FLAGS, Flag
from dify_batch.flagvalues import Failures
from dify_batch.flagwords import again
from dify_batch.masking import Secret
from dify_batch.settingvalues import NOT_GIVEN, WAIT_CONCURRENCY, Values, default_of

__all__ = ["Failures", "Secret", "Settings", "load_settings", "mask_url", "read_base_url", "read_env_file"]

ADDRESS = frozenset({"api_key", "base_url", "workflow_id"})  # of which a demo takes no notice


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(Values):
    """All that a batch is told. Times are seconds, `rate` is starts per second.

    Paths may be given as str, the key as str. `concurrency` left out is 5, or 1 with a `wait`.

    Raises:
        UsageError: a value is not allowed; the message names it and what is.
        AuthError: no API key (code not_logged_in), unless `demo`.
    """

    def __post_init__(self) -> None:
        put = object.__setattr__  # frozen for everyone else
        put(self, "input", os.fspath(self.input))
        for name in ("output", "log_file", "report", "env_file", "files_root", "ids", "expect"):
            if isinstance(getattr(self, name), str):
                put(self, name, Path(getattr(self, name)))
        key = cast(object, self.api_key)
        if isinstance(key, str):
            put(self, "api_key", Secret(key))
        for flag in FLAGS:  # the same words mean the same from Python: delimiter="semicolon", timeout="5"
            value = getattr(self, flag.dest, None)
            if isinstance(value, str) and flag.action == "value" and flag.dest not in ADDRESS:
                put(self, flag.dest, flag.read(value, flag.dest))
        if self.concurrency == NOT_GIVEN:
            least = 1 if self.shard is None else self.shard.of  # a part with none could never run
            put(self, "concurrency", WAIT_CONCURRENCY if self.wait > 0 else max(least, default_of("concurrency")))
        check_values(self)
        check_together(self)
        if self.app is not None:
            check_account(self)
        if not self.demo:  # the simulator brings its own address and key
            check_workflow_id(self.workflow_id)
        if not self.demo and (self.app is None or self.api_key):  # a sign-in brings its own address, and needs no key
            put(self, "base_url", read_base_url(self.base_url)[0])
            check_key(self.api_key.reveal())

    def again(self) -> list[str]:
        """The flags, as words of a command, that decide what happens to the rows."""
        return again({name: getattr(self, name) for name in self.__dataclass_fields__})


def load_settings(
    given: Mapping[str, Any], environ: Mapping[str, str] | None = None, directory: Path | None = None
) -> tuple[Settings, tuple[str, ...]]:
    """Settings out of the flags given, else the environment, else the file; and warnings for people.

    Args:
        given: dest → text of a value flag, bool of a switch, count of -v; only what was typed.
        environ: the environment; os.environ if left out. It is not changed.
        directory: where `.env` is looked for; the working directory if left out.

    Raises:
        UsageError: a value, a file or a combination is not allowed; nothing has been sent.
        AuthError: DIFY_API_KEY is not set anywhere (code not_logged_in), and `--demo` is not given.
    """
    environ = os.environ if environ is None else environ
    path = Path(given["env_file"]) if given.get("env_file") else None
    warnings: list[str] = []
    file = read_env_file(
        path or (directory or Path()) / ".env", required=path is not None, warnings=warnings, environ=environ
    )
    where = str(path) if path else ".env"
    values: dict[str, Any] = {}
    for flag in FLAGS:
        if flag.dest in given:
            text = given[flag.dest]
            if flag.action == "list":
                values[flag.dest] = _pairs(flag, text)
            else:
                values[flag.dest] = flag.read(text, flag.name) if isinstance(text, str) else text
        elif flag.env is None or (given.get("demo") and flag.dest in ADDRESS):
            continue
        elif flag.env in environ and (environ[flag.env].strip() or flag.dest == "base_url"):
            require_some(flag.env, environ[flag.env], "the environment")
            values[flag.dest] = flag.read(unquoted(flag.env, environ[flag.env]), flag.env)
        elif flag.env in file and (file[flag.env].strip() or flag.dest == "base_url"):
            require_some(flag.env, file[flag.env], where)
            values[flag.dest] = flag.read(file[flag.env], f"{flag.env} in {where}")
    if path is None and not given.get("demo"):
        require_one_place(environ, file, where)
    for name in ("input", "output"):
        if not str(given.get(name) or "").strip():
            flag = BY_DEST[name]
            raise UsageError(
                f"{'/'.join(flag.names)} is missing: {flag.help}",
                code="usage_missing_arg",
                hint="dify-batch -i data.csv -o results.jsonl",
            )
    if "base_url" in values and not values.get("demo"):
        values["base_url"], note = read_base_url(values["base_url"])
        warnings += [note] if note else []
    if "workflow_id" in values:
        values["workflow_id"] = values["workflow_id"].strip()
    unknown = unknown_names(environ, file)
    try:
        return Settings(**values), (*warnings, *unknown)
    except AuthError as error:
        if unknown:  # perhaps it is the key's name that is misspelt
            error.hint = "\n".join([*unknown, error.hint or ""])
        raise


def _pairs(flag: Flag, texts: Iterable[str]) -> dict[str, str]:
    """The name=value of a flag that is given several times; UsageError where a name comes twice."""
    pairs: dict[str, str] = {}
    for text in texts:
        name, value = flag.read(text, flag.name)
        if pairs.setdefault(name, value) != value:
            raise UsageError(
                f'{flag.name}: "{name}" is given twice, as "{pairs[name]}" and "{value}"',
                hint="leave one out",
                code="usage_invalid_flag",
            )
    return pairs
