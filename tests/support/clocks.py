"""Clocks that tests set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class GivenClock:
    """Both times are what `now` gives, in seconds."""

    now: Callable[[], float]

    def monotonic(self) -> float:
        return self.now()

    def wall(self) -> float:
        return self.now()


@dataclass
class JumpingClock:
    """`passed`: seconds that have gone by; `jumped`: by how much the wall clock is ahead of what it was."""

    passed: float = 0.0
    jumped: float = 0.0

    def monotonic(self) -> float:
        return 1000.0 + self.passed

    def wall(self) -> float:
        return 1_800_000_000.0 + self.passed + self.jumped
