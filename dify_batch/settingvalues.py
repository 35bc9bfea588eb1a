"""The values that a batch is told, each with its default. `settings.py` makes them, and checks them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from dify_batch.flags import BY_DEST, DEFAULT_BASE_URL
from dify_batch.flagvalues import Failures
from dify_batch.ids import Shard
from dify_batch.ledger.shards import shard_path
from dify_batch.masking import Secret

WAIT_CONCURRENCY = 1  # a wait without a concurrency means one row at a time, as --wait has always meant
NOT_GIVEN = 0  # the concurrency that stands for "by default"; no real one is 0
NO_KEY = Secret()


def default_of(dest: str) -> Any:
    """What holds where nobody says."""
    return BY_DEST[dest].default


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """All that a batch is told. Times are seconds, `rate` is starts per second."""

    input: str
    output: Path
    api_key: Secret = NO_KEY
    retry: bool = default_of("retry")
    retry_unknown: bool = default_of("retry_unknown")
    wait: float = default_of("wait")
    concurrency: int | Literal["auto"] = NOT_GIVEN
    rate: float | None = None
    mode: Literal["auto", "streaming", "blocking"] = default_of("mode")
    timeout: float = default_of("timeout")
    max_retries: int = default_of("max_retries")
    initial_retry_delay: float = default_of("initial_retry_delay")
    max_retry_delay: float = default_of("max_retry_delay")
    retry_policy: Literal["strict", "safe", "all"] = default_of("retry_policy")
    retry_pass: bool = default_of("retry_pass")
    expect: Path | None = None
    settle: float = default_of("settle")
    stuck_after: float | None = None
    max_outage: float = default_of("max_outage")
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
    dedupe: bool = default_of("dedupe")
    workers: int | None = None
    keep_order: bool = default_of("keep_order")
    overwrite: bool = default_of("overwrite")
    rerun_changed: bool = default_of("rerun_changed")
    allow_other_app: bool = default_of("allow_other_app")
    bom: bool = default_of("bom")
    encoding: str | None = None
    delimiter: str | None = None
    sheet: str | None = None
    id_column: str | None = None
    files_column: str | None = None
    files_root: Path | None = None
    constants: Mapping[str, Any] | None = None
    renames: Mapping[str, str] | None = None
    other_ids: bool = default_of("other_ids")
    skip_invalid: bool = default_of("skip_invalid")
    preflight: bool = default_of("preflight")
    dry_run: bool = default_of("dry_run")
    demo: bool = default_of("demo")
    json: bool = default_of("json")
    quiet: bool = default_of("quiet")
    verbose: int = default_of("verbose")
    log_file: Path | None = None
    report: Path | None = None
    notify: tuple[str, ...] | None = field(default=None, repr=False)  # such a URL often holds a password
    metrics: int | Path | None = None
    log_format: Literal["text", "json"] = default_of("log_format")
    env_file: Path | None = None
    base_url: str = field(default=DEFAULT_BASE_URL, repr=False)  # may hold a password
    workflow_id: str | None = None

    @property
    def results(self) -> Path:
        """The file that the results go to: `output`, or with a shard the one of that part."""
        return self.output if self.shard is None else shard_path(self.output, self.shard)
