"""What the simulated Dify has of the world: time and chance. Both are given to it; it asks nobody else for them."""

from __future__ import annotations

from dify_batch.seams import Chance, Clock, RealChance, RealClock

_MILLION = 6  # digits: Dify tells elapsed times in microseconds


class Means:
    """Time and chance, as the server has them.

    skew: seconds by which the server's idea of the date is ahead of the clock's (behind, if negative).
    """

    __slots__ = ("chance", "clock", "skew")

    def __init__(self, clock: Clock | None = None, chance: Chance | None = None, skew: float = 0.0) -> None:
        self.clock: Clock = clock or RealClock()
        self.chance: Chance = chance or RealChance()
        self.skew: float = skew

    def now(self) -> float:
        """Seconds since 1970, as the server believes: what it stores and tells."""
        return self.clock.wall() + self.skew

    def monotonic(self) -> float:
        """For durations, seconds."""
        return self.clock.monotonic()

    def since(self, began: float) -> float:
        """Seconds since a `monotonic()`, in microseconds as Dify gives them."""
        return round(self.clock.monotonic() - began, _MILLION)

    def new_id(self) -> str:
        """A random UUID text (version 4), at a fifth of the price of the library's."""
        h = self.chance.token(16)
        return f"{h[:8]}-{h[8:12]}-4{h[13:16]}-a{h[17:20]}-{h[20:]}"
