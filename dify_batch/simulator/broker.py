"""The queue and the worker processes that take from it.

A streaming run waits here, in no log, until a place of some worker is free (dify-wire 26a). With `prefetch` a worker
reserves more tasks than it has places, so one can wait behind a long run while another worker is idle. With
`overtaking` what is sent together arrives in another order. Both are seen on real servers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from .config import Config
from .means import Means

Job = Callable[[], Coroutine[Any, Any, Any]]


class Worker:
    """One worker process: what it executes and what it has reserved. All of it is gone when it is killed."""

    __slots__ = ("alive", "busy", "reserved")

    def __init__(self) -> None:
        self.alive: bool = True
        self.busy: set[asyncio.Task[Any]] = set()
        self.reserved: deque[Job] = deque()


class Broker:
    """The queue, which outlives everybody, and the workers. To be used in the server's event loop only."""

    def __init__(self, config: Config, means: Means) -> None:
        self.config = config
        self._means = means
        self._queue: deque[Job] = deque()
        self._on_the_way: set[asyncio.TimerHandle] = set()
        self._workers: list[Worker] = []
        self._turn = 0

    @property
    def queued(self) -> int:
        """Tasks that nobody executes yet, wherever they wait."""
        reserved = sum(len(worker.reserved) for worker in self._workers)
        return len(self._queue) + len(self._on_the_way) + reserved

    def push(self, job: Job, delay: float = 0.0) -> None:
        """A task is sent; it arrives after `delay` seconds and what `overtaking` adds."""
        if self.config.overtaking:
            delay += self._means.chance.uniform(0.0, self.config.overtaking)
        if delay:
            self._arrive_later(job, delay)
        else:
            self._queue.append(job)
            self.pump()

    def _arrive_later(self, job: Job, delay: float) -> None:
        def arrive() -> None:
            self._on_the_way.discard(timer)
            self._queue.append(job)
            self.pump()

        timer = asyncio.get_running_loop().call_later(delay, arrive)
        self._on_the_way.add(timer)

    def pump(self) -> None:
        """Workers take what they can. To be called when there is more to take, or more room."""
        workers = self._living()
        for worker in workers:
            while worker.reserved and self._has_place(worker):
                self._execute(worker, worker.reserved.popleft())
        while self._queue and (worker_with_room := self._next(workers)) is not None:
            job = self._queue.popleft()
            if self._has_place(worker_with_room):
                self._execute(worker_with_room, job)
            else:
                worker_with_room.reserved.append(job)

    def _living(self) -> list[Worker]:
        while len(self._workers) < self.config.worker_processes:
            self._workers.append(Worker())
        return [worker for worker in self._workers[: self.config.worker_processes] if worker.alive]

    def _has_place(self, worker: Worker) -> bool:
        return self.config.workers is None or len(worker.busy) < self.config.workers

    def _next(self, workers: list[Worker]) -> Worker | None:
        """Who takes the next task: each in turn, and one without a free place as well as others if it may reserve."""
        for step in range(len(workers)):
            worker = workers[(self._turn + step) % len(workers)]
            if self._has_place(worker) or (self.config.workers and len(worker.reserved) < self.config.prefetch):
                self._turn = (self._turn + step + 1) % len(workers)
                return worker
        return None

    def _execute(self, worker: Worker, job: Job) -> None:
        task = asyncio.ensure_future(job())
        worker.busy.add(task)

        def ended(task: asyncio.Task[Any]) -> None:
            worker.busy.discard(task)
            if not task.cancelled():
                task.exception()
                self.pump()

        task.add_done_callback(ended)

    def kill(self, number: int | None = None) -> None:
        """SIGKILL for one worker (from 0), or for all.

        What it executes stops at once and says nothing. What it had reserved comes back to the queue when the broker
        has waited for `redelivery` seconds.
        """
        self._living()
        for worker in self._workers if number is None else [self._workers[number]]:
            worker.alive = False
            for task in list(worker.busy):
                task.cancel()
            for job in worker.reserved:
                self._arrive_later(job, self.config.redelivery)
            worker.reserved.clear()

    def start(self, number: int | None = None) -> None:
        """Workers that were killed are started again, with empty hands."""
        self._living()
        for worker in self._workers if number is None else [self._workers[number]]:
            worker.alive = True
        self.pump()

    def clear(self) -> None:
        """Forgets what nobody executes yet."""
        self._queue.clear()
        for timer in self._on_the_way:
            timer.cancel()
        self._on_the_way.clear()
        for worker in self._workers:
            worker.reserved.clear()

    def close(self) -> None:
        """Everything ends."""
        self.clear()
        for worker in self._workers:
            for task in list(worker.busy):
                task.cancel()
