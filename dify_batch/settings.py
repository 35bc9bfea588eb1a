"""Settings: from the flag, else the environment, else `.env`; checked once, here, and never changed later.

`Settings(input=..., output=..., api_key=...)` is the Python API and applies the same checks as
`load_settings`, which the command line uses. Nothing here prints, and nothing changes the environment
of the process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, cast

from dify_batch.addressing import check_key, check_workflow_id, mask_url, read_base_url
from dify_batch.envfile import read_env_file, require_one_place, require_some, unknown_names, unquoted
from dify_batch.errors import AuthError, UsageError
from dify_batch.flags import BY_DEST, DEFAULT_BASE_URL, FLAGS, Flag
from dify_batch.flagvalues import MAX_CONCURRENCY, Failures
from dify_batch.flagwords import again
from dify_batch.ids import Shard
from dify_batch.ledger.formats import Paths
from dify_batch.ledger.place import Kind, kind_of, require_regular, same_file
from dify_batch.ledger.shards import shard_path
from dify_batch.masking import Secret

__all__ = ["Failures", "Secret", "Settings", "load_settings", "mask_url", "read_base_url", "read_env_file"]

ADDRESS = frozenset({"api_key", "base_url", "workflow_id"})  # of which a demo takes no notice
WAIT_CONCURRENCY = 1  # a wait without a concurrency means one row at a time, as --wait has always meant
NOT_GIVEN = 0  # the concurrency that stands for "by default"; no real one is 0


NO_KEY = Secret()


def _default(dest: str) -> Any:
    return BY_DEST[dest].default


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All that a batch is told. Times are seconds, `rate` is starts per second.

    Paths may be given as str, the key as str. `concurrency` left out is 5, or 1 with a `wait`.

    Raises:
        UsageError: a value is not allowed; the message names it and what is.
        AuthError: no API key (code not_logged_in), unless `demo`.
    """

    input: str
    output: Path
    api_key: Secret = NO_KEY
    retry: bool = _default("retry")
    retry_unknown: bool = _default("retry_unknown")
    wait: float = _default("wait")
    concurrency: int | Literal["auto"] = NOT_GIVEN
    rate: float | None = None
    mode: Literal["auto", "streaming", "blocking"] = _default("mode")
    timeout: float = _default("timeout")
    max_retries: int = _default("max_retries")
    initial_retry_delay: float = _default("initial_retry_delay")
    max_retry_delay: float = _default("max_retry_delay")
    retry_policy: Literal["strict", "safe", "all"] = _default("retry_policy")
    retry_pass: bool = _default("retry_pass")
    expect: Path | None = None
    settle: float = _default("settle")
    stuck_after: float | None = None
    max_outage: float = _default("max_outage")
    max_failures: Failures | None = None
    max_runtime: float | None = None
    max_tokens: int | None = None
    max_cost: Decimal | None = None
    app: str | None = None
    workspace: str | None = None
    app_kind: Literal["workflow", "chatflow", "chat", "agent", "completion"] | None = None
    query_column: str | None = None
    user: str | None = None
    limit: int | None = None
    sample: int | None = None
    ids: Path | None = None
    shard: Shard | None = None
    dedupe: bool = _default("dedupe")
    workers: int | None = None
    keep_order: bool = _default("keep_order")
    overwrite: bool = _default("overwrite")
    rerun_changed: bool = _default("rerun_changed")
    allow_other_app: bool = _default("allow_other_app")
    bom: bool = _default("bom")
    encoding: str | None = None
    delimiter: str | None = None
    sheet: str | None = None
    id_column: str | None = None
    files_column: str | None = None
    files_root: Path | None = None
    constants: Mapping[str, Any] | None = None
    renames: Mapping[str, str] | None = None
    other_ids: bool = _default("other_ids")
    skip_invalid: bool = _default("skip_invalid")
    preflight: bool = _default("preflight")
    dry_run: bool = _default("dry_run")
    demo: bool = _default("demo")
    json: bool = _default("json")
    quiet: bool = _default("quiet")
    verbose: int = _default("verbose")
    log_file: Path | None = None
    report: Path | None = None
    notify: tuple[str, ...] | None = field(default=None, repr=False)  # such a URL often holds a password
    metrics: int | Path | None = None
    log_format: Literal["text", "json"] = _default("log_format")
    env_file: Path | None = None
    base_url: str = field(default=DEFAULT_BASE_URL, repr=False)  # may hold a password
    workflow_id: str | None = None

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
            put(self, "concurrency", WAIT_CONCURRENCY if self.wait > 0 else max(least, _default("concurrency")))
        _check_values(self)
        _check_together(self)
        if self.app is not None:
            check_account(self)
        if not self.demo:  # the simulator brings its own address and key
            check_workflow_id(self.workflow_id)
        if not self.demo and (self.app is None or self.api_key):  # a sign-in brings its own address, and needs no key
            put(self, "base_url", read_base_url(self.base_url)[0])
            check_key(self.api_key.reveal())

    @property
    def results(self) -> Path:
        """The file that the results go to: `output`, or with a shard the one of that part."""
        return self.output if self.shard is None else shard_path(self.output, self.shard)

    def again(self) -> list[str]:
        """The flags, as words of a command, that decide what happens to the rows."""
        return again({name: getattr(self, name) for name in self.__dataclass_fields__})


def check_account(settings: Settings) -> None:
    """What --app rules out. Raises UsageError."""
    for name, why in (("user", "the account is who runs the app"),):
        if getattr(settings, name) is not None:
            raise UsageError(f"--app and --{name} contradict each other: {why}", code="usage_invalid_flag")
    if settings.mode == "blocking":
        raise UsageError(
            "--app and --mode blocking contradict each other: the account surface answers in streams",
            code="usage_invalid_flag",
            hint="leave --mode out",
        )


_AT_LEAST: Mapping[str, tuple[float, bool]] = {  # field: (bound, the bound itself is allowed)
    "wait": (0, True),
    "timeout": (0, False),
    "initial_retry_delay": (0, True),
    "max_retry_delay": (0, True),
    "settle": (0, True),
    "max_retries": (0, True),
    "stuck_after": (0, False),
    "max_outage": (0, False),
    "max_runtime": (0, False),
    "rate": (0, False),
    "limit": (1, True),
    "sample": (1, True),
    "max_tokens": (1, True),
    "max_cost": (0, False),
}


def _check_values(settings: Settings) -> None:
    """Ranges and choices, for callers from Python: a value parsed from text has passed already."""
    for name, (bound, included) in _AT_LEAST.items():
        value = getattr(settings, name)
        if value is None and BY_DEST[name].default is None:
            continue
        fits = isinstance(value, (int, float, Decimal)) and (value >= bound if included else value > bound)
        if not fits or value == float("inf"):
            raise UsageError(f"{name}: {value!r} is not a number {'of at least' if included else 'above'} {bound}")
    number = settings.concurrency
    if number != "auto" and not (isinstance(number, int) and 1 <= number <= MAX_CONCURRENCY):
        raise UsageError(f"concurrency: {number!r} is not a whole number from 1 to {MAX_CONCURRENCY}, or auto")
    for name in ("mode", "retry_policy", "log_format"):
        if not isinstance(getattr(settings, name), str):
            raise UsageError(f"{name}: {getattr(settings, name)!r} is not one of {', '.join(BY_DEST[name].choices)}")
    if settings.user is not None and re.search(r"[{}]", re.sub(r"\{[^{}]+\}", "", settings.user)):
        raise UsageError(
            f'--user: "{settings.user}" has a brace without its partner',
            hint="a column is named as in --user 'crm-{customer}'",
        )


def _check_together(settings: Settings) -> None:
    """Values that are right alone and wrong together."""
    if settings.retry and settings.overwrite:
        raise UsageError(
            "--retry and --overwrite contradict each other: one goes on, the other starts over",
            hint="leave one of them out",
            code="usage_invalid_flag",
        )
    if settings.max_cost is not None and settings.mode == "blocking":
        raise UsageError(
            "--max-cost and --mode blocking contradict each other: a blocking answer tells no price",
            hint="leave --mode out, or limit the tokens in place of the cost: --max-tokens N",
            code="usage_invalid_flag",
        )
    if settings.dedupe and settings.user is not None and "{" in settings.user:
        raise UsageError(
            "--dedupe and a --user that names columns contradict each other: the runs of two users are two runs",
            hint="leave one of them out",
            code="usage_invalid_flag",
        )
    if settings.retry_unknown and not settings.retry:
        raise UsageError(
            "--retry-unknown says which rows --retry runs, and --retry is not given",
            hint="give both: --retry --retry-unknown",
            code="usage_invalid_flag",
        )
    if settings.shard is not None or settings.workers is not None:
        _check_parts(settings)
    if settings.quiet and settings.verbose:
        raise UsageError("-q and -v contradict each other", hint="leave one out", code="usage_invalid_flag")
    if settings.max_retry_delay < settings.initial_retry_delay:
        raise UsageError(
            f"MAX_RETRY_DELAY ({settings.max_retry_delay:g} s) is less than "
            f"INITIAL_RETRY_DELAY ({settings.initial_retry_delay:g} s)",
            hint="raise --max-retry-delay or lower --initial-retry-delay",
        )
    if str(settings.output) == "-":
        raise UsageError(
            "--output: results go to a file, since the next invocation goes on from it; - is not possible",
            hint="give a file, such as -o results.jsonl",
            code="usage_invalid_flag",
        )
    require_regular(settings.output, "--output")
    files = {"--output": settings.output, "--log-file": settings.log_file, "--report": settings.report}
    files["--expect"] = settings.expect
    files["--metrics"] = settings.metrics if isinstance(settings.metrics, Path) else None
    if settings.input != "-":
        files["--input"] = Path(settings.input)
    seen: dict[str, str] = {}
    for name, path in files.items():
        if path is None:
            continue
        other = seen.setdefault(os.path.realpath(path), name)
        if other != name:
            raise UsageError(
                f'{other} and {name} are the same file: "{path}"',
                hint=f"give {name} a file of its own",
                code="usage_invalid_flag",
            )
        if name not in ("--output", "--input") and any(same_file(path, own) for own in Paths.of(settings.results).all):
            raise UsageError(
                f'{name}: "{path}" is a file of the output itself',
                hint=f"give {name} a file of its own",
                code="usage_invalid_flag",
            )
    if settings.log_file is not None and kind_of(settings.log_file) is Kind.PIPE:
        raise UsageError(
            f'--log-file: "{settings.log_file}" is a pipe, and nobody may read it',
            hint="give a file",
            code="usage_invalid_flag",
        )
    if settings.files_column is not None and settings.files_column == settings.id_column:
        raise UsageError(
            f'--id-column and --files-column are the same column: "{settings.id_column}"',
            code="usage_invalid_flag",
        )


def _check_parts(settings: Settings) -> None:
    """What does not go together with --shard, or with --workers."""
    shard, workers = settings.shard, settings.workers
    flag = "--shard" if shard is not None else "--workers"
    against = {
        "--user": (settings.user is not None, "the user of a request tells the parts apart when it is looked up"),
        "--app": (settings.app is not None, "the user of a request tells the parts apart when it is looked up"),
        "--dedupe": (settings.dedupe, "rows with equal inputs may stand in several parts"),
    }
    if workers is not None:
        against |= {
            "--shard": (shard is not None, "one is a part by itself, the other runs all parts"),
            "--keep-order": (settings.keep_order, "each process has a file of its own; dify-batch merge puts in order"),
            "--input -": (settings.input == "-", "each process reads the input, and standard input can be read once"),
        }
        flag = "--workers"
    for other, (given, why) in against.items():
        if given:
            raise UsageError(
                f"{flag} and {other} contradict each other: {why}",
                hint="leave one out" if other != "--input -" else "write the rows to a file first",
                code="usage_invalid_flag",
            )
    if shard is not None and settings.concurrency != "auto" and settings.concurrency < shard.of:
        why = "a wait means one at a time; " if settings.wait > 0 and settings.concurrency == WAIT_CONCURRENCY else ""
        raise UsageError(
            f"{why}--concurrency {settings.concurrency} is for all {shard.of} parts together, and each needs one run "
            "in flight at least",
            hint=f"give --concurrency {shard.of} or more, or fewer parts",
            code="usage_invalid_flag",
        )


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
