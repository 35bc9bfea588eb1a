"""What a batch cannot be told: values out of their range, and values that are right alone and wrong together.

Nothing is opened; of the files that are named only what stands under their names is looked at.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

from dify_batch.errors import UsageError
from dify_batch.flags import BY_DEST
from dify_batch.flagvalues import MAX_CONCURRENCY
from dify_batch.ledger.formats import Paths
from dify_batch.ledger.place import Kind, kind_of, require_regular, same_file
from dify_batch.settingvalues import WAIT_CONCURRENCY, Values


def check_account(settings: Values) -> None:
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


def check_values(settings: Values) -> None:
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


def check_together(settings: Values) -> None:
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


def _check_parts(settings: Values) -> None:
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
