"""A clock that a test owns."""

from __future__ import annotations


class TestClock:
    """Both times advance only when the test says so."""

    __test__ = False

    def __init__(self, now: float = 1000.0, wall: float = 1_700_000_000.0) -> None:
        self.now = now
        self.offset = wall - now

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + self.offset
