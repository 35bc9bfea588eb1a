"""A Dify server of hidden capacity in virtual time, and a client that obeys a `Limit`.

No sleeping, no network: a heap of events. The same seed gives the same history.
"""

from __future__ import annotations

import heapq
import random
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from dify_batch.engine.limit import Limit

Mode = Literal["streaming", "blocking", "refusing"]
Clock = Callable[[], float]

# A request and its answer on the way, seconds: what a refusal takes, and a start on an idle server.
WIRE = 0.01
# From one harmless question to the next, seconds.
LOOK_EVERY = 1.0


@dataclass(frozen=True, slots=True)
class Server:
    """What the client cannot see.

    Args:
        mode: streaming queues silently and tells each start; blocking queues for a connection and tells nothing before
            the answer; refusing answers "Too many requests" beyond its capacity and queues nothing.
        phases: (from when, how many runs at once), in order of time, the first at 0.
        run: draws the seconds of one run.
        cold: draws the seconds between a POST and the queue, whatever the load; is given the time.
        shared: the runs share one processor: more than `capacity` at once take proportionally longer, and none waits.
    """

    mode: Mode
    phases: Sequence[tuple[float, int]]
    run: Callable[[random.Random], float]
    cold: Callable[[random.Random, float], float] = lambda rng, now: 0.0
    shared: bool = False

    def capacity(self, now: float) -> int:
        """Runs at once at that time."""
        return next(capacity for since, capacity in reversed(self.phases) if now >= since)


@dataclass(slots=True)
class History:
    """What happened. in_flight, limit: (time, value) at each change."""

    finished: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    in_flight: list[tuple[float, int]] = field(default_factory=list)
    limit: list[tuple[float, int]] = field(default_factory=list)

    def throughput(self, since: float, until: float) -> float:
        """Runs finished a second."""
        return (bisect_left(self.finished, until) - bisect_left(self.finished, since)) / (until - since)

    def longest_above(self, level: int, since: float, until: float) -> float:
        """Seconds of the longest stretch within [since, until] in which more than `level` were in flight."""
        longest, began = 0.0, None
        for index, (time, value) in enumerate(self.in_flight):
            end = self.in_flight[index + 1][0] if index + 1 < len(self.in_flight) else until
            low, high = max(time, since), min(end, until)
            if low >= high:
                continue  # an end and the next start at one time leave no gap
            if value <= level:
                began = None
                continue
            began = low if began is None else began
            longest = max(longest, high - began)
        return longest

    def last_limit(self, now: float) -> int:
        """The limit in force at that time."""
        return self.limit[bisect_left(self.limit, (now, 1 << 30)) - 1][1]


@dataclass(slots=True)
class _Request:
    sent: float
    started: float = 0.0
    look: bool = False


class _World:
    def __init__(self, server: Server, make: Callable[[Clock], Limit], seed: int, rate: float | None) -> None:
        self.server, self.rate = server, rate
        self.now = 0.0
        self.rng = random.Random(seed)
        self.limit = make(lambda: self.now)
        self.history = History()
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.count = 0
        self.in_flight = self.busy = 0
        self.queue: deque[_Request] = deque()
        self.next_send = 0.0

    def at(self, time: float, do: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.events, (time, self.count, do))

    def run(self, until: float) -> History:
        for since, _ in self.server.phases:
            self.at(since, self.serve)
        self.send()
        self.at(LOOK_EVERY, self.look)
        while self.events and self.events[0][0] <= until:
            self.now, _, do = heapq.heappop(self.events)
            do()
            self.send()
        return self.history

    def send(self) -> None:
        """The client: as many as the limit (and the rate) allow."""
        if not self.history.limit or self.history.limit[-1][1] != self.limit.current:
            self.history.limit.append((self.now, self.limit.current))
        while self.in_flight < self.limit.current:
            if self.rate is not None:
                if self.now < self.next_send:
                    return
                self.next_send = self.now + 1 / self.rate
                self.at(self.next_send, lambda: None)
            self.fly(+1)
            request = _Request(self.now)
            self.at(self.now + WIRE + self.server.cold(self.rng, self.now), partial(self.arrive, request))

    def fly(self, change: int) -> None:
        self.in_flight += change
        self.history.in_flight.append((self.now, self.in_flight))

    def look(self) -> None:
        """The client's harmless question: where connections are what is short, it waits for one as a run does."""
        self.at(self.now + LOOK_EVERY, self.look)
        if self.server.mode == "blocking":
            self.queue.append(_Request(self.now, self.in_flight, look=True))
            self.serve()
        else:
            self.limit.looked(WIRE, self.in_flight)

    def arrive(self, request: _Request) -> None:
        if self.server.mode == "refusing" and self.busy >= self.server.capacity(self.now):
            self.history.refused.append(self.now)
            self.limit.throttled(self.in_flight)
            self.fly(-1)
            return
        self.queue.append(request)
        self.serve()

    def serve(self) -> None:
        capacity = self.server.capacity(self.now)
        while self.queue and (self.busy < capacity or self.server.shared):
            request = self.queue.popleft()
            if request.look:
                self.limit.looked(self.now - request.sent + WIRE, int(request.started))
                continue
            self.busy += 1
            request.started = self.now
            if self.server.mode == "streaming":
                self.limit.started(self.now - request.sent, self.in_flight)
            slower = max(1.0, self.busy / capacity) if self.server.shared else 1.0
            self.at(self.now + slower * self.server.run(self.rng), partial(self.finish, request))

    def finish(self, request: _Request) -> None:
        self.busy -= 1
        if self.server.mode != "streaming":
            self.limit.started(request.started - request.sent, self.in_flight)
        self.limit.finished(self.now - request.sent, self.in_flight)
        self.history.finished.append(self.now)
        self.fly(-1)
        self.serve()


def simulate(
    server: Server, make: Callable[[Clock], Limit], until: float, *, seed: int = 1, rate: float | None = None
) -> History:
    """Rows without end against the server, for `until` virtual seconds.

    Args:
        make: makes the limit, which gets the virtual clock.
        rate: starts a second at most, as `--rate`.
    """
    return _World(server, make, seed, rate).run(until)


class Always:
    """A fixed setting: the yardstick."""

    def __init__(self, current: int) -> None:
        self.current = current

    def started(self, delay: float, in_flight: int) -> None: ...
    def finished(self, seconds: float, in_flight: int) -> None: ...
    def throttled(self, in_flight: int) -> None: ...
    def looked(self, seconds: float, in_flight: int) -> None: ...


def best_fixed(server: Server, capacity: int, seconds: float, *, seed: int = 1) -> float:
    """Runs a second of the best fixed setting when the server has this capacity throughout."""
    steady = Server(server.mode, [(0.0, capacity)], server.run, server.cold, server.shared)
    # A refusing server is full with as many as it takes, and each one more is wasted; a queueing one with any number
    # that also covers the delays, and none is better.
    tries = [capacity] if server.mode == "refusing" else [2 * capacity, 16 * capacity]
    warm = seconds / 5

    def fixed(number: int) -> float:
        return simulate(steady, lambda clock: Always(number), warm + seconds, seed=seed).throughput(
            warm, warm + seconds
        )

    return max(fixed(number) for number in tries)
