"""End users: whom a `user` stands for. Two requests that meet make two of one name (dify-wire 31i, 31q5)."""

from __future__ import annotations

import asyncio

from .config import Config
from .means import Means


class EndUsers:
    """All end users of all apps, made by the first request that names them, without a check that they are unique."""

    def __init__(self, config: Config, means: Means) -> None:
        self.config = config
        self._means = means
        self._ids: dict[tuple[str, str], str] = {}

    async def find(self, app_key: str, user: str) -> str:
        """The id of that user. One that is not there is made, which takes `user_creation` seconds: whoever asks
        meanwhile makes another, and later requests find the one that was made last."""
        key = (app_key, user)
        if key not in self._ids:
            made = self._means.new_id()
            if self.config.user_creation:
                await asyncio.sleep(self.config.user_creation)
            self._ids[key] = made
            return made
        return self._ids[key]
