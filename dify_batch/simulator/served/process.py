"""The simulator as a process of its own, with the methods of `Simulator`, over the control port."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import fields
from types import TracebackType
from typing import Any, Self

from ..apps import DEFAULT_KEY
from ..config import Config

START_TIMEOUT = 30.0  # a cold interpreter on a busy machine
STOP_TIMEOUT = 10.0
CALL_TIMEOUT = 30.0


class SimulatorProcess:
    """`python -m dify_batch.simulator`, started and stopped with a `with` statement.

    faults: a plan as for `Simulator.faults`, in force from the first request.
    Raises RuntimeError if the process does not come up. A callable latency_tail cannot be handed over: ValueError.
    """

    api_key = DEFAULT_KEY

    def __init__(self, config: Config | None = None, faults: Mapping[str, object] | None = None) -> None:
        self.config: Config = config or Config()
        self._faults = faults
        self._process: subprocess.Popen[str] | None = None
        self._urls: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts the process and waits until it serves."""
        command = [sys.executable, "-m", "dify_batch.simulator", *arguments(self.config)]
        if self._faults is not None:
            command += ["--faults", json.dumps(self._faults)]
        # A session of its own: a signal to the caller's process group is not meant for the server.
        process = self._process = subprocess.Popen(  # noqa: S603
            command, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert process.stdout is not None
        alarm = threading.Timer(START_TIMEOUT, process.kill)
        alarm.start()
        line = process.stdout.readline()
        alarm.cancel()
        alarm.join()
        if not line:
            self.stop()
            raise RuntimeError(f"the simulator ended before it was ready, with status {process.returncode}")
        self._urls = json.loads(line)

    def stop(self) -> None:
        """Ends the process. Does nothing the second time."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def kill(self) -> None:
        """SIGKILL: everything in memory is gone."""
        if self._process is not None:
            self._process.kill()
            self.stop()

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return int(self._urls["pid"])

    @property
    def base_url(self) -> str:
        """For DIFY_API_BASE_URL: `http://127.0.0.1:PORT/v1`."""
        return str(self._urls["base_url"])

    @property
    def control_url(self) -> str:
        """The control port's URL."""
        return str(self._urls["control_url"])

    def state(self, runs: bool = True) -> dict[str, Any]:
        """Counters and runs."""
        return dict(self._call("GET", f"/state?runs={int(runs)}"))

    def faults(self, plan: Mapping[str, object] | None = None, **parts: object) -> None:
        """Replaces the fault plan. Raises ValueError."""
        self._call("POST", "/faults", {**(plan or {}), **parts})

    def configure(self, **changes: object) -> None:
        """Changes settings while it runs. Raises ValueError."""
        self._call("POST", "/config", changes)

    def refuse(self, on: bool = True, seconds: float | None = None) -> None:
        """Closes the listening socket, for `seconds` or until `refuse(False)`."""
        self._call("POST", "/refuse", {"on": on, "seconds": seconds})

    def crash(self, what: str, seconds: float | None = None, number: int | None = None) -> None:
        """SIGKILL for "api" or "worker", for `seconds` or until `restart`. number: one worker of several, from 0."""
        self._call("POST", "/crash", {"what": what, "seconds": seconds, "number": number})

    def restart(self, what: str, number: int | None = None) -> None:
        """Starts what was killed."""
        self._call("POST", "/restart", {"what": what, "number": number})

    def ledger(self) -> list[dict[str, Any]]:
        """Every execution, as the fields of `Execution`."""
        return list(self._call("GET", "/ledger"))

    def reset(self) -> None:
        """Forgets runs, counters and faults."""
        self._call("POST", "/reset")

    def submit_form(self, run_id: str, action: str = "approve", **answers: object) -> None:
        """Fills in the form of a paused run. Raises ValueError if it is not paused."""
        self._call("POST", f"/forms/{run_id}", {"action": action, "inputs": answers or {"comment": "ok"}})

    def _call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.control_url + path, data, method=method)  # noqa: S310  # loopback
        # No proxy: what the environment says of proxies is not for loopback.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=CALL_TIMEOUT) as response:
                result = json.load(response)
        except urllib.error.HTTPError as e:
            with e:
                raise ValueError(json.load(e).get("error", str(e))) from None
        return result


def arguments(config: Config) -> list[str]:
    """The command line flags for everything in `config` that is not its default."""
    result = []
    for field in fields(Config):
        value = getattr(config, field.name)
        if value == field.default:
            continue
        if callable(value):
            raise ValueError("latency_tail: a function cannot be handed to another process; give a number")
        flag = f"--{field.name.replace('_', '-')}"
        result.append(f"{flag}={'none' if value is None else value}")
    return result
