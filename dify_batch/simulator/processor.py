"""Processor time: what keeps a real server from executing any number of short runs at once."""

from __future__ import annotations

import asyncio


class Processor:
    """Some cores; each does one thing after the other, in the order asked for."""

    def __init__(self) -> None:
        self._free: list[float] = []  # the loop's time from which each core is free

    async def spend(self, seconds: float, cores: int) -> None:
        """Takes so much time of one core, and waits for its turn and its end."""
        if not seconds:
            return
        if len(self._free) != cores:
            self._free = [0.0] * cores
        now = asyncio.get_running_loop().time()
        core = min(range(cores), key=self._free.__getitem__)
        self._free[core] = max(now, self._free[core]) + seconds
        await asyncio.sleep(self._free[core] - now)
