"""The API process's memory: who holds its connections, who waits for one, and what it executes itself.

Requests beyond the connections wait unanswered in the listen queue, look-ups and stops among them, and a client that
gives up there is served all the same (dify-wire section 8). Blocking runs are executed here, so that they die with the
process (dify-wire 26d).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from .config import Config

T = TypeVar("T")


class Api:
    """One API process. To be used in the server's event loop only."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.alive: bool = True
        self.active: dict[str, int] = {}  # blocking runs of each app, for max_active_requests
        self._slots = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._watchers: list[Callable[[bool], None]] = []

    @property
    def listening(self) -> int:
        """Requests in the listen queue."""
        return sum(not turn.done() for turn in self._waiting)

    async def enter(self) -> None:
        """Takes a connection slot; waits unanswered for one if all are taken."""
        limit = self.config.connections
        if limit is not None and self._slots >= limit:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn
        else:
            self._slots += 1

    def leave(self) -> None:
        """Gives the slot back."""
        self._slots -= 1
        self.admit()

    def admit(self) -> None:
        """Lets in who waits. To be called when `connections` has grown."""
        limit = self.config.connections
        while self._waiting and (limit is None or self._slots < limit):
            turn = self._waiting.popleft()
            if not turn.done():
                self._slots += 1
                turn.set_result(None)

    def hold_app_slot(self, app_key: str) -> Callable[[], None]:
        """Counts a blocking run of an app; gives what counts it out."""
        active = self.active  # a reset puts another in its place
        active[app_key] = active.get(app_key, 0) + 1

        def release() -> None:
            active[app_key] -= 1

        return release

    def spawn(self, job: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Something that the process does, whether or not its client is there; it dies with the process."""
        task = asyncio.ensure_future(job)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """A task that dies with the process: a request that is being answered, until `release`."""
        self._tasks.add(task)

    def release(self, task: asyncio.Task[Any]) -> None:
        """It is answered."""
        self._tasks.discard(task)

    def watch(self, call: Callable[[bool], None]) -> None:
        """Has `call(alive)` called when the process is killed or started: whoever serves it cuts its connections."""
        self._watchers.append(call)

    def kill(self) -> None:
        """SIGKILL: connections, listen queue and whatever it executes are gone at once."""
        self.alive = False
        self.close()
        for call in self._watchers:
            call(False)

    def start(self) -> None:
        """A new process in its place."""
        if not self.alive:
            self.alive = True
            self._slots = 0
            for call in self._watchers:
                call(True)

    def close(self) -> None:
        """Ends what goes on."""
        self._waiting.clear()
        for task in list(self._tasks):
            task.cancel()
