"""The plan of faults: which request meets which. Pure but for what is used up."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .faults import NORMAL, OF_A_RUN, OF_AN_UPLOAD, OF_THE_SERVER, SERVER_FAULTS, Fault

_NUMBERS = ("seconds", "latency", "after", "times", "lasts")
_KEYS = ("rows", "all", "mix", "seed", "server", "uploads")


@dataclass(slots=True)
class Scheduled:
    """A fault of the server that some requests meet."""

    fault: Fault
    seen: int = 0
    first: float | None = None

    def meets(self, endpoint: str, now: float) -> bool:
        """Whether this request, one of `endpoint` ("GET parameters"), meets it. Counts it. now: seconds."""
        fault = self.fault
        method, _, path = endpoint.partition(" ")
        if fault.on and not {endpoint, method, path} & set(fault.on):
            return False
        self.seen += 1
        if self.seen <= fault.after:
            return False
        if self.first is None:
            self.first = now
        if fault.lasts is not None and now - self.first >= fault.lasts:
            return False
        return fault.times is None or self.seen <= fault.after + fault.times


@dataclass(slots=True)
class FaultPlan:
    """What happens to which POST. `rows` is used up, one fault for each POST of that id."""

    rows: dict[str, list[Fault]] = field(default_factory=dict)
    every: Fault | None = None
    mix: tuple[tuple[str, float], ...] = ()
    seed: int = 0
    server: dict[str, Fault] = field(default_factory=dict)
    requests: list[Scheduled] = field(default_factory=list)
    uploads: dict[str, list[Fault]] = field(default_factory=dict)

    def suffer(self, fault: Fault) -> None:
        """The whole server, or the requests that the fault names, meet it from now on."""
        if fault.name in SERVER_FAULTS:
            self.server[fault.name] = fault
        else:
            self.requests.append(Scheduled(fault))

    def recover(self, name: str) -> None:
        """And no longer."""
        self.server.pop(name, None)
        self.requests = [scheduled for scheduled in self.requests if scheduled.fault.name != name]

    def take(self, row: str, nth: int) -> Fault:
        """The fault of the nth POST (from 1) of `row`; one that the plan lists is taken off it."""
        if row in self.rows:
            left = self.rows[row]
            return left.pop(0) if left else NORMAL
        if self.every is not None:
            return self.every
        if self.mix:
            return draw(self.mix, self.seed, row, nth)
        return NORMAL


def take_upload(plan: FaultPlan, filename: str) -> Fault:
    """The fault of the next upload of that file, taken off the plan; `*` stands for every file."""
    for name in (filename, "*"):
        if plan.uploads.get(name):
            return plan.uploads[name].pop(0)
    return NORMAL


def meet(plan: FaultPlan, endpoint: str, now: float) -> Fault | None:
    """What a request of `endpoint` ("GET parameters") meets. now: seconds of a monotonic clock."""
    met = [scheduled.fault for scheduled in plan.requests if scheduled.meets(endpoint, now)]
    return met[0] if met else None


def draw(mix: Sequence[tuple[str, float]], seed: int, row: str, nth: int) -> Fault:
    """A fault by its probability; always the same for the same (seed, row, nth)."""
    point = random.Random(f"{seed}:{row}:{nth}").random()  # noqa: S311  # reproducible on purpose
    for name, probability in mix:
        point -= probability
        if point < 0:
            return Fault(name)
    return NORMAL


def parse_plan(plan: Mapping[str, object]) -> FaultPlan:
    """Reads the JSON form of a plan.

    `{"rows": {id: [fault, ...]}, "all": fault, "mix": {name: probability}, "seed": int, "server": fault or
    list, "uploads": {file name or "*": [fault, ...]}}`, every part optional. A fault is a name or an object with the
    fields of `Fault`; with only `latency` it is a normal run that takes so long. A whole-server name under "all" means
    "server".

    Raises ValueError that says which part is wrong and what is allowed.
    """
    unknown = set(plan) - set(_KEYS)
    if unknown:
        raise ValueError(f"faults: unknown key {sorted(unknown)[0]!r}; one of: {', '.join(_KEYS)}")
    result = FaultPlan()
    result.rows = _lists(plan, "rows", OF_A_RUN)
    result.uploads = _lists(plan, "uploads", OF_AN_UPLOAD)
    for part in ("server", "all"):
        for item in _as_list(plan.get(part)):
            fault = _fault(item, part, OF_THE_SERVER if part == "server" else OF_A_RUN | OF_THE_SERVER)
            if part == "all" and fault.name in OF_A_RUN:
                result.every = fault
            else:
                result.suffer(fault)
    mix = plan.get("mix") or {}
    if not isinstance(mix, Mapping):
        raise ValueError("faults: mix must be an object of name: probability")
    for name, probability in mix.items():
        _fault(name, "mix", OF_A_RUN)
        if not isinstance(probability, int | float) or not 0 <= probability <= 1:
            raise ValueError(f"faults: mix: {name} needs a probability from 0 to 1, got {probability!r}")
    result.mix = tuple(mix.items())
    seed = plan.get("seed", 0)
    if not isinstance(seed, int):
        raise ValueError(f"faults: seed must be a whole number, got {seed!r}")
    result.seed = seed
    return result


def _lists(plan: Mapping[str, object], part: str, known: Mapping[str, str]) -> dict[str, list[Fault]]:
    found = plan.get(part) or {}
    if not isinstance(found, Mapping):
        raise ValueError(f"faults: {part} must be an object of {'id' if part == 'rows' else 'file name'}: [fault, ...]")
    where = part.removesuffix("s")
    return {
        str(name): [_fault(f, f"{where} {name!r}", known) for f in _as_list(faults)] for name, faults in found.items()
    }


def _as_list(value: object) -> list[object]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _fault(value: object, where: str, known: Mapping[str, str]) -> Fault:
    if isinstance(value, Fault):
        return value
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping) or set(value) - {"name", "on", *_NUMBERS}:
        fields = ", ".join(("name", "on", *_NUMBERS))
        raise ValueError(f"faults: {where}: a fault is a name or an object of {fields}; got {value!r}")
    name = value.get("name", "normal")
    if name not in known:
        raise ValueError(f"faults: {where}: unknown fault {name!r}; one of: {', '.join(sorted(known))}")
    on = tuple(map(str, _as_list(value.get("on"))))
    return Fault(
        name, on=on, **{key: _number(value, key, name, where) for key in _NUMBERS if value.get(key) is not None}
    )


def _number(value: Mapping[str, object], key: str, name: object, where: str) -> Any:
    number = value[key]
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise ValueError(f"faults: {where}: {key} of {name} must be a number, got {number!r}")
    return int(number) if key in ("after", "times") else float(number)
