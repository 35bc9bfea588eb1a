"""The settings of a batch as they are handed to a worker, and back. The key never is: it comes by the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from dify_batch.flagvalues import Failures
from dify_batch.ids import Shard
from dify_batch.settings import Secret, Settings

# What the coordinator holds itself, for all: figures of the whole batch, what is shown, what is written beside it.
_KEPT = frozenset(
    {
        *("api_key", "base_url", "workers", "shard", "concurrency", "rate", "wait", "max_failures", "max_runtime"),
        *("max_tokens", "max_cost", "limit", "keep_order", "overwrite", "dry_run", "json", "quiet", "verbose"),
        *("log_file", "log_format", "report", "notify", "metrics", "env_file"),
    }
)


def handed(settings: Settings) -> dict[str, Any]:
    """JSON-ready."""
    found = {}
    for each in fields(settings):
        value = getattr(settings, each.name)
        if each.name in _KEPT or value is None:
            continue
        if isinstance(value, Path | Decimal | Failures):
            value = str(value)
        elif isinstance(value, Mapping):
            value = dict(value)
        found[each.name] = value
    if settings.max_cost is not None and settings.mode == "auto":
        found["mode"] = "streaming"  # only streams tell the price
    return found


def received(
    values: Mapping[str, Any],
    shard: Shard,
    *,
    concurrency: int | Literal["auto"],
    api_key: str,
    base_url: str,
) -> Settings:
    """The settings of one part. Raises UsageError, which is a bug: they have been checked."""
    return Settings(
        **values,
        shard=shard,
        concurrency=concurrency,
        api_key=Secret(api_key),
        base_url=base_url,
    )
