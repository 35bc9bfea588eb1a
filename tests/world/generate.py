"""A history out of a seed, by rules with weights. Everything in it is likely enough to meet everything else."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from tests.world.history import (
    Clock,
    Cut,
    Deed,
    DiskTrouble,
    Edit,
    Fate,
    History,
    Invocation,
    Network,
    Row,
    Server,
    Weather,
    of_kind,
)

T = TypeVar("T")

FATES: dict[str, int] = {
    "cut_before": 3,
    "cut_after_accept": 5,
    "cut_after_start": 3,
    "cut_mid_stream": 3,
    "silence": 2,
    "silence_before_start": 2,
    "error_500": 1,
    "error_500_run": 3,
    "error_502": 2,
    "error_502_run": 3,
    "error_503": 1,
    "error_unknown": 1,
    "throttle_429": 2,
    "throttle_400": 2,
    "rejected": 1,
    "failed": 2,
    "partial": 1,
    "stopped": 1,
    "stopped_but_succeeds": 1,
    "zombie": 1,
    "zombie_blocking": 1,
    "slow_queue": 3,
    "error_event_after_start": 1,
    "bad_request_unknown": 2,
    "clean_end": 2,
    "unknown_event": 1,
    "split_utf8": 1,
    "slow_answer": 1,
}
"""Faults of the simulator for one POST, with their weights. A fault that stops the batch has its own rule."""

FATAL = ("quota", "bad_key", "not_initialized")

WEATHERS: dict[str, int] = {
    "refuse": 4,
    "unreachable": 1,
    "outage_500": 3,
    "hang": 2,
    "redis_down": 1,
    "closed_log": 2,
    "gateway_502": 2,
    "gateway_503": 1,
    "gateway_404": 1,
    "gateway_200": 1,
    "kill_api": 3,
    "kill_worker": 2,
    "no_workers": 3,
    "slow_log": 1,
}

EDITS: dict[str, int] = {
    "table_add": 2,
    "table_remove": 1,
    "table_change": 1,
    "retry_take_out": 1,
    "retry_ghost": 1,
    "retry_windows": 1,
    "results_lose": 2,
}


def generate(seed: int, *, tame: bool = False, kind: str = "workflow") -> History:
    """`tame`: the control, without a queue and without faults. `kind`: of the app that is asked."""
    history = _generate(seed, tame=tame)
    return history if kind == "workflow" else of_kind(history, kind)


def _generate(seed: int, *, tame: bool) -> History:
    draw = Draw(seed)
    count = draw.pick((3, 4, 6, 8, 12), (2, 3, 4, 3, 1))
    server = _server(draw, tame)
    twins = not tame and draw.chance(0.15)  # rows that ask the same
    rows = tuple(
        Row(id=f"r{number}", query=f"question {0 if twins else number}", fates=() if tame else _fates(draw))
        for number in range(1, count + 1)
    )
    number = 1 if tame else draw.pick((1, 2, 3, 4), (2, 5, 3, 1))
    flags = _flags(draw, tame)
    if twins:  # nobody can tell them apart under one user, and then they stay unknown
        flags = tuple((name, value) for name, value in flags if name != "user")
        if random.Random(f"dedupe {seed}").random() < 0.6:  # apart, so that seeds mean what they meant
            flags = (*flags, ("dedupe", True))
    if not tame and random.Random(f"second pass {seed}").random() < 0.1:
        flags = (*flags, ("retry_pass", True))
    invocations = tuple(_invocation(draw, nth, number, count, server, flags, tame) for nth in range(number))
    history = History(
        seed=seed,
        rows=rows,
        server=server,
        network=Network() if tame else _network(draw, count),
        invocations=invocations,
    )
    return history if tame else _rarer(Draw(seed, "rarer"), history)


def _rarer(draw: Draw, history: History) -> History:
    """What few people do, drawn apart so that the rest of a seed's history is what it was."""
    invocations = list(history.invocations)

    def set_flag(nth: int, name: str, value: Any) -> None:
        one = invocations[nth]
        flags = tuple(pair for pair in one.flags if pair[0] != name)
        invocations[nth] = replace(one, flags=(*flags, (name, value)))

    if draw.chance(0.1):
        for nth in range(len(invocations)):
            set_flag(nth, "concurrency", "auto")
    if len(invocations) > 1 and draw.chance(0.04):
        nth = draw.number(1, len(invocations) - 1)
        if not dict(invocations[nth].flags).get("retry"):
            set_flag(nth, "overwrite", True)
    if len(invocations) > 1 and draw.chance(0.06):
        nth = draw.number(1, len(invocations) - 1)
        edits = (*invocations[nth].edits, Edit(what="table_change", row=draw.number(0, len(history.rows))))
        invocations[nth] = replace(invocations[nth], edits=edits)
        if not dict(invocations[nth].flags).get("retry"):
            set_flag(nth, "rerun_changed", True)
    if len(invocations) > 1 and draw.chance(0.06):  # a day or more later the server has forgotten what was
        nth = draw.number(1, len(invocations) - 1)
        weather = (*invocations[nth].weather, Weather(at=0.0, what="forget"))
        invocations[nth] = replace(invocations[nth], pause=draw.pick((86_000.0, 95_000.0)), weather=weather)
    return replace(history, invocations=tuple(invocations))


class Draw:
    """Chance, with the few shapes that histories need."""

    def __init__(self, seed: int, what: str = "history") -> None:
        self._random = random.Random(f"{what} {seed}")

    def chance(self, share: float) -> bool:
        return self._random.random() < share

    def pick(self, values: Sequence[T], weights: Sequence[int] | None = None) -> T:
        return self._random.choices(values, weights)[0]

    def of(self, table: dict[str, int]) -> str:
        return self.pick(list(table), list(table.values()))

    def time(self, most: float) -> float:
        """Short times are more likely than long ones; two digits are enough."""
        return round(most * self._random.random() ** 2, 2)

    def number(self, low: int, high: int) -> int:
        return self._random.randint(low, high)

    def some(self, most: int, make: Callable[[], T]) -> tuple[T, ...]:
        """None is the likeliest number, `most` the least likely."""
        return tuple(make() for _ in range(min(self.number(0, most), self.number(0, most))))


def _server(draw: Draw, tame: bool) -> Server:
    latency = draw.pick((0.5, 3.0, 25.0, 60.0), (2, 3, 4, 1))
    if tame:
        return Server(latency=latency)
    workers = draw.pick((None, 1, 2, 4), (2, 1, 2, 5))
    return Server(
        app=draw.pick(("app-demo", "app-human"), (15, 1)),
        latency=latency,
        spread=draw.pick((0.0, 0.5), (2, 1)),
        workers=workers,
        processes=draw.pick((1, 2), (4, 1)),
        prefetch=draw.pick((0, 2), (2, 1)) if workers else 0,
        overtaking=draw.pick((0.0, 0.05, 5.0), (4, 2, 1)) if workers else 0.0,
        connections=draw.pick((None, 4), (8, 1)),
        max_active=draw.pick((None, 3), (12, 1)),
        lag=draw.pick((0.0, 1.0, 15.0), (8, 1, 1)),
    )


def _fates(draw: Draw) -> tuple[Fate, ...]:
    if not draw.chance(0.3):
        return ()

    def one() -> Fate:
        if draw.chance(0.01):
            return Fate(name=draw.pick(FATAL))
        name = draw.of(FATES)
        seconds = None
        if name in ("slow_queue", "slow_answer"):
            seconds = draw.pick((5.0, 20.0, 60.0))
        elif name == "throttle_429" and draw.chance(0.5):
            seconds = draw.pick((1.0, 20.0))
        return Fate(name=name, seconds=seconds)

    return tuple(one() for _ in range(draw.pick((1, 2, 3), (6, 2, 1))))


def _network(draw: Draw, rows: int) -> Network:
    def cut() -> Cut:
        side = draw.pick(("up", "down"))
        after = draw.pick((0, 100, 700)) if side == "up" else draw.pick((0, 200, 900, 2000, 4000))
        return Cut(connection=draw.number(1, 3 * rows), side=side, after=after)

    delay = draw.pick(((0.001, 0.002), (0.01, 0.2), (0.2, 3.0)), (6, 2, 1))
    cuts = draw.some(4, cut) if draw.chance(0.6) else ()
    doubled = draw.some(2, lambda: draw.number(1, 20 * rows)) if draw.chance(0.2) else ()
    return Network(delay=delay, cuts=cuts, doubled=doubled)


def _flags(draw: Draw, tame: bool) -> tuple[tuple[str, Any], ...]:
    flags: dict[str, Any] = {}
    flags["concurrency"] = draw.pick((1, 2, 5, 8), (1, 2, 5, 3))
    if draw.chance(0.6):
        flags["mode"] = draw.pick(("streaming", "blocking"))
    if tame:
        return tuple(flags.items())
    if draw.chance(0.2):
        flags["timeout"] = draw.pick((10.0, 40.0))
    if draw.chance(0.12):
        flags["retry_policy"] = draw.pick(("strict", "all"), (3, 1))
    if draw.chance(0.1):
        flags["user"] = draw.pick(("someone", "u-{id}"))
    if draw.chance(0.1):
        flags["keep_order"] = True
    if draw.chance(0.1):
        flags["max_outage"] = draw.pick((5.0, 60.0))
    if draw.chance(0.05):
        flags["max_runtime"] = draw.pick((3.0, 30.0))
    if draw.chance(0.05):
        flags["limit"] = draw.number(1, 3)
    if draw.chance(0.05):
        flags["rate"] = 0.5
    if draw.chance(0.05):
        flags["max_retries"] = 0
    return tuple(flags.items())


def _invocation(
    draw: Draw, nth: int, number: int, rows: int, server: Server, flags: tuple[tuple[str, Any], ...], tame: bool
) -> Invocation:
    if tame:
        return Invocation(flags=flags)
    if nth and draw.chance(0.15):
        flags = tuple((name, value) for name, value in _flags(draw, tame) if name != "user")
    if nth and draw.chance(0.25):
        flags = (*((name, value) for name, value in flags if name != "retry"), ("retry", True))
        if draw.chance(0.1):
            flags = (*flags, ("retry_unknown", True))
    horizon = max(20.0, server.latency * 2)

    def deed() -> Deed:
        what = draw.pick(("kill", "term", "int", "power", "second", "answer"), (6, 2, 2, 2, 1, 1))
        return Deed(at=draw.time(horizon), what=what, kept=draw.pick((0.0, 0.4, 0.8, 1.0)))

    def weather() -> Weather:
        return Weather(
            at=draw.time(horizon), what=draw.of(WEATHERS), seconds=draw.pick((1.0, 8.0, 40.0, 200.0), (3, 4, 3, 1))
        )

    def edit() -> Edit:
        return Edit(what=draw.of(EDITS), row=draw.number(0, rows))

    disk = None
    if draw.chance(0.15):
        what = draw.pick(("kill", "power", "ENOSPC", "EIO"), (4, 3, 2, 1))
        disk = DiskTrouble(
            at=draw.number(1, 12 + 6 * rows), what=what, lasting=draw.chance(0.5), kept=draw.pick((0.0, 0.5, 1.0))
        )
    last = nth == number - 1
    clock = Clock()
    if draw.chance(0.15):
        jumps = draw.some(2, lambda: (draw.time(horizon), draw.pick((-3600.0, -30.0, 30.0, 3600.0))))
        clock = Clock(skew=draw.pick((-7200.0, -40.0, 40.0, 86_400.0)), jumps=jumps)
    return Invocation(
        pause=draw.pick((0.5, 5.0, 30.0, 300.0, 86_400.0), (3, 4, 3, 2, 1)) if nth else 1.0,
        flags=flags,
        edits=draw.some(2, edit) if nth and draw.chance(0.4) else (),
        deeds=(() if last and draw.chance(0.5) else draw.some(3, deed)) if draw.chance(0.7) else (),
        weather=draw.some(2, weather) if draw.chance(0.5) else (),
        disk=disk,
        clock=clock,
    )
