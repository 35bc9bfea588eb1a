"""Named faults: what goes wrong, for which row, and in what order. All pure."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

# One POST of a row can meet one of these. README of the recorded exchanges: the numbers in brackets.
RUN_FAULTS = {
    "normal": "nothing goes wrong (to say so within a list)",
    "cut_before": "the request is read, the connection closed without a byte; no run (29)",
    "cut_after_accept": "the request is read, the connection closed without a byte; the run is executed (26d)",
    "cut_after_start": "the stream is closed right after workflow_started; the run goes on",
    "cut_mid_stream": "closed in the middle of an event, after some nodes; the run goes on (26e)",
    "silence": "after workflow_started nothing more is sent; the run ends normally (26i)",
    "silence_before_start": "one ping, then nothing; the run is executed",
    "error_500": "500 internal_server_error; no run (26o)",
    "error_500_run": "500 internal_server_error; the run goes on and succeeds (26j)",
    "error_502": "502 as HTML, from a proxy; no run",
    "error_502_run": "502 as HTML, from a proxy; the run goes on",
    "error_503": "503 as HTML, from a proxy; no run",
    "error_unknown": "500 unknown; no run (26n)",
    "throttle_429": "429 too_many_requests, with Retry-After if `seconds` is given; no run",
    "throttle_400": "400 invalid_param `Too many requests...`; no run (17)",
    "quota": "429 rate_limit_error; no run",
    "quota_provider": "400 provider_quota_exceeded; no run",
    "not_initialized": "400 provider_not_initialize; no run",
    "bad_key": "401 unauthorized; no run (03)",
    "forbidden": "403 forbidden, the app's API is disabled; no run (21j)",
    "rejected": "a bad input: 400 when blocking, an `error` event when streaming; no run (05, 05b)",
    "failed": "the run fails (15)",
    "partial": "the run is partial-succeeded, error null, exceptions_count 1 (15d)",
    "stopped": "the run is stopped, on the wire and in run detail (16)",
    "stopped_but_succeeds": "the wire says stopped with {}, run detail says succeeded later (30d, 30e)",
    "paused": "the run waits for a form (18)",
    "zombie": "workflow_started, then the worker dies: silence, `running` for ever (26b)",
    "zombie_blocking": "closed without a byte, `running` for ever (26d, 26h)",
    "slow_queue": "the run starts `seconds` late",
    "error_event_after_start": "an `error` event after workflow_started; the run succeeds",
    "bad_request_unknown": "400 invalid_param `queue listening stopped unexpectedly.`; the run is executed",
    "db_down_at_end": "the wire says succeeded with outputs, run detail stays `running` for ever (26l)",
    "clean_end": "the stream ends cleanly after workflow_started; the run goes on",
    "big_event": "a node_finished event of 3 MB and outputs of 1 MB",
    "unknown_event": "event types and fields that no client knows",
    "split_utf8": "chunks end inside multi-byte characters",
    "slow_answer": "the blocking answer comes `seconds` after the POST",
}
# The whole server can suffer from these.
SERVER_FAULTS = {
    "refuse": "the listening socket is closed",
    "outage_500": "every /v1 request answers 500 unknown, as with Postgres down (26n); /health stays 200",
    "redis_down": "every request first waits `seconds`; GETs answer, a blocking POST 500, a stream ends (26o)",
    "hang": "requests are read and never answered",
    "closed_log": "the log answers 403 forbidden",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. seconds: its duration where it has one; latency: of the run, in place of Config.latency."""

    name: str
    seconds: float | None = None
    latency: float | None = None


NORMAL = Fault("normal")


@dataclass(slots=True)
class FaultPlan:
    """What happens to which POST. `rows` is used up, one fault for each POST of that id."""

    rows: dict[str, list[Fault]] = field(default_factory=dict)
    every: Fault | None = None
    mix: tuple[tuple[str, float], ...] = ()
    seed: int = 0
    server: dict[str, Fault] = field(default_factory=dict)

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
    list}`, every part optional. A fault is a name or `{"name": ..., "seconds": ..., "latency": ...}`; with
    only `latency` it is a normal run that takes so long. A whole-server name under "all" means "server".

    Raises ValueError that says which part is wrong and what is allowed.
    """
    unknown = set(plan) - {"rows", "all", "mix", "seed", "server"}
    if unknown:
        raise ValueError(f"faults: unknown key {sorted(unknown)[0]!r}; one of: rows, all, mix, seed, server")
    result = FaultPlan()
    rows = plan.get("rows") or {}
    if not isinstance(rows, Mapping):
        raise ValueError("faults: rows must be an object of id: [fault, ...]")
    for row, faults in rows.items():
        result.rows[str(row)] = [_fault(f, f"row {row!r}", RUN_FAULTS) for f in _as_list(faults)]
    for part in ("server", "all"):
        for item in _as_list(plan.get(part)):
            known = SERVER_FAULTS if part == "server" else RUN_FAULTS | SERVER_FAULTS
            fault = _fault(item, part, known)
            if fault.name in SERVER_FAULTS:
                result.server[fault.name] = fault
            else:
                result.every = fault
    mix = plan.get("mix") or {}
    if not isinstance(mix, Mapping):
        raise ValueError("faults: mix must be an object of name: probability")
    for name, probability in mix.items():
        _fault(name, "mix", RUN_FAULTS)
        if not isinstance(probability, int | float) or not 0 <= probability <= 1:
            raise ValueError(f"faults: mix: {name} needs a probability from 0 to 1, got {probability!r}")
    result.mix = tuple(mix.items())
    seed = plan.get("seed", 0)
    if not isinstance(seed, int):
        raise ValueError(f"faults: seed must be a whole number, got {seed!r}")
    result.seed = seed
    return result


def _as_list(value: object) -> list[object]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _fault(value: object, where: str, known: Mapping[str, str]) -> Fault:
    if isinstance(value, Fault):
        return value
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping) or set(value) - {"name", "seconds", "latency"}:
        raise ValueError(f"faults: {where}: a fault is a name or an object of name, seconds, latency; got {value!r}")
    name = value.get("name", "normal")
    if name not in known:
        raise ValueError(f"faults: {where}: unknown fault {name!r}; one of: {', '.join(sorted(known))}")
    times = []
    for key in ("seconds", "latency"):
        number = value.get(key)
        if number is not None and (isinstance(number, bool) or not isinstance(number, int | float)):
            raise ValueError(f"faults: {where}: {key} of {name} must be a number, got {number!r}")
        times.append(None if number is None else float(number))
    return Fault(name, *times)
