"""The few settings that the engine goes by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dify_batch.engine.course import PolicyName


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the engine is told of the settings. Times in seconds, `rate` in starts a second."""

    policy: PolicyName = "safe"
    max_retries: int = 3
    initial_retry_delay: float = 1.0
    max_retry_delay: float = 60.0
    concurrency: int | Literal["auto"] = 5
    rate: float | None = None
    wait: float = 0.0
    mode: Literal["auto", "streaming", "blocking"] = "auto"
    timeout: float = 300.0
    settle: float = 10.0
    stuck_after: float | None = None
    max_outage: float = 900.0
    user: str | None = None
    keep_order: bool = False
    look_with: str = "dify-batch status"
