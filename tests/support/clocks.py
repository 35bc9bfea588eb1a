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
