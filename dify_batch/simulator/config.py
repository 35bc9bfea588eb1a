"""The simulator's settings: every duration and limit a test may want to scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

SHAPES = ("A", "B", "C")
TailFunction = Callable[[str, int], float]
"""(row id, nth execution of that id, from 1) -> seconds added to `Config.latency`."""


@dataclass(frozen=True, slots=True)
class Config:
    """All durations are seconds. The defaults are what a Dify 1.14.2 with its docker defaults does.

    port, control_port: 0 takes a free one. Neither can be changed while the server runs.
    """

    port: int = 0
    control_port: int = 0
    latency: float = 0.2  # of one run, in its slow node
    latency_tail: float | TailFunction | None = None  # sigma of a lognormal factor of median 1, or a function
    workers: int | None = 4  # places of a worker: runs that it executes at once (celery's gevent pool); None: no limit
    worker_processes: int = 1
    prefetch: int = 0  # tasks that a worker reserves beyond its places
    overtaking: float = 0.0  # so much later, at random, does a task arrive in the queue: who is sent first may be last
    redelivery: float = 3600.0  # what a killed worker had reserved comes back then (the broker's visibility timeout)
    connections: int | None = None  # requests answered at once (gunicorn's workers x connections)
    api_processes: int = 1  # each executes one blocking run's own work at a time
    blocking_cpu: float = 0.0  # processor time that a run costs the API process which executes it
    streaming_cpu: float = 0.0  # and a worker process
    max_active_requests: int | None = None  # the app's own concurrency limit (dify-wire section 5)
    ping_interval: float = 10.0
    hold_after_error: float = 300.0  # a stream stays open so long after an `error` event (dify-wire 05h2)
    linger_after_finish: float = 1.0  # and so long after workflow_finished or workflow_paused
    keep_alive: float = 2.0  # idle connections are closed then, as gunicorn does (dify-wire 29)
    stop_delay: float = 0.2  # from the wire's "stopped" to run detail's (dify-wire 16c, 16d)
    snapshot_delay: float = 0.2  # from the first ping to the snapshot on the events endpoint (dify-wire 24c)
    late_end: float = 0.2  # how long a run goes on after the wire called it stopped (dify-wire 30d)
    form_lifetime: float = 129600.0  # 36 hours (dify-wire 18)
    files_access_timeout: float = 300.0  # so long is a link to a file good (FILES_ACCESS_TIMEOUT)
    app_time_limit: float = 1200.0  # a model that talks for longer is cut off (APP_MAX_EXECUTION_TIME, dify-wire 31.3)
    user_creation: float = 0.0  # how long making an end user takes: two requests that meet make two of one name
    app_slot_expiry: float = 600.0  # a place under max_active_requests that was lost in a crash frees itself then
    clock_skew: float = 0.0  # how far the server's clock is ahead
    api_shape: str = "A"  # the account surface's: A as 1.14, B as 1.16, C as 1.18 and later
    account_rate: int | None = 60  # requests a minute of each token (dify-wire 27p); None: no limit
    device_interval: float = 5.0  # between two polls of a sign-in
    device_approval: float | None = None  # a sign-in is approved by itself then; None: on the page that it names
    token_lifetime: float = 1209600.0  # 14 days (dify-wire 27c)
    external_sso: int = 0  # 1: an enterprise edition with external single sign-on; 2: with run paths of their own
    licensed: int = 1  # 0: an enterprise licence that has ended

    @classmethod
    def docker(cls, **changes: Any) -> Config:
        """The shape of a server of default size: one API process of 10 connections, one worker of 4 places.

        Measured: short runs come to 21 to 32 a second in blocking mode, to 8 a second in streaming mode.
        """
        shape: dict[str, Any] = {"connections": 10, "overtaking": 0.01, "blocking_cpu": 0.035, "streaming_cpu": 0.06}
        return cls(**(shape | changes))

    def changed(self, changes: Mapping[str, object]) -> Config:
        """A copy with `changes` applied.

        Raises ValueError on an unknown name, on a port, or on a value of the wrong type.
        """
        for name, value in changes.items():
            if name == "api_shape" and value in SHAPES:
                continue
            if name not in _RUN_TIME:
                known = ", ".join(sorted(_RUN_TIME))
                raise ValueError(f"config: unknown or fixed setting {name!r}; one of: {known}")
            if isinstance(value, bool) or not (
                isinstance(value, int | float)
                or (value is None and name in _OPTIONAL)
                or (name == "latency_tail" and callable(value))
            ):
                raise ValueError(f"config: {name} must be a number, got {value!r}")
            if isinstance(value, int | float) and value < 0 and name != "clock_skew":
                raise ValueError(f"config: {name} must not be negative, got {value!r}")
        return replace(self, **changes)  # type: ignore[arg-type]  # checked just above


_OPTIONAL = frozenset(
    {"latency_tail", "workers", "connections", "max_active_requests", "account_rate", "device_approval"}
)
_RUN_TIME = frozenset(f.name for f in fields(Config)) - {"port", "control_port"}
