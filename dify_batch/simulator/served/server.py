"""The simulator as a server in a thread of this process."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Coroutine, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from ..account import ADMIN, GUEST
from ..apps import DEFAULT_KEY
from ..config import Config
from ..kinds import DEMO_KEYS
from .core import SimulatorCore

START_TIMEOUT = 10.0  # binding two loopback ports takes milliseconds
T = TypeVar("T")


class Simulator:
    """A Dify on loopback, in a thread of its own.

    with Simulator(Config(latency=0)) as sim:
        ...  # sim.base_url, sim.api_key

    Every method may be called from any thread. Raises OSError if a fixed port is taken.
    """

    api_key = DEFAULT_KEY

    def __init__(self, config: Config | None = None) -> None:
        self.config: Config = config or Config()
        self._core: SimulatorCore | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Binds the ports and serves."""
        loop = self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=loop.run_forever, name="dify-simulator", daemon=True)
        self._thread.start()

        async def begin() -> SimulatorCore:
            core = SimulatorCore(self.config)
            await core.open()
            return core

        try:
            self._core = self._run(begin())
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stops serving; open connections are dropped. Does nothing the second time."""
        if self._loop is None or self._thread is None:
            return
        loop, thread = self._loop, self._thread
        if self._core is not None:
            self._run(self._core.close())
        self._loop = self._thread = None
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def _run(self, job: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            job.close()
            raise RuntimeError("the simulator is not running; use it in a with statement")
        return asyncio.run_coroutine_threadsafe(job, self._loop).result(START_TIMEOUT)

    @staticmethod
    def key_of(kind: str) -> str:
        """The key of the demo's app of that kind: workflow, chatflow, chat, agent, completion. Raises KeyError."""
        return DEMO_KEYS[kind]

    @property
    def core(self) -> SimulatorCore:
        """The server itself, for use in its own event loop only."""
        if self._core is None:
            raise RuntimeError("the simulator is not running; use it in a with statement")
        return self._core

    @property
    def base_url(self) -> str:
        """For DIFY_API_BASE_URL: `http://127.0.0.1:PORT/v1`."""
        return self.core.base_url

    @property
    def control_url(self) -> str:
        """The control port's URL."""
        return self.core.control_url

    def state(self, runs: bool = True) -> dict[str, Any]:
        """Counters and runs, as GET /state of the control port."""

        async def read() -> str:
            return json.dumps(self.core.state(runs))

        result: dict[str, Any] = json.loads(self._run(read()))
        return result

    def faults(self, plan: Mapping[str, object] | None = None, **parts: object) -> None:
        """Replaces the fault plan: `faults(rows={"r1": ["cut_before"]}, server="outage_500")`; none: all well.

        Raises ValueError on a plan that `parse_plan` does not understand.
        """
        self._run(self.core.set_faults({**(plan or {}), **parts}))

    def configure(self, **changes: object) -> None:
        """Changes settings while it runs: `configure(workers=0)`. Raises ValueError."""

        async def change() -> None:
            self.core.set_config(changes)

        self._run(change())

    def refuse(self, on: bool = True, seconds: float | None = None) -> None:
        """Closes the listening socket, for `seconds` or until `refuse(False)`."""
        self._run(self.core.refuse(on, seconds))

    def crash(self, what: str, seconds: float | None = None, number: int | None = None) -> None:
        """SIGKILL for "api" or "worker", for `seconds` or until `restart`. number: one worker of several, from 0."""
        self._run(self.core.crash(what, seconds, number))

    def restart(self, what: str, number: int | None = None) -> None:
        """Starts what was killed."""
        self._run(self.core.restart(what, number))

    def ledger(self) -> list[dict[str, Any]]:
        """Every execution, as the fields of `Execution`."""

        async def read() -> str:
            return json.dumps(self.core.ledger())

        result: list[dict[str, Any]] = json.loads(self._run(read()))
        return result

    def reset(self) -> None:
        """Forgets runs, counters and faults."""

        async def forget() -> None:
            self.core.reset()

        self._run(forget())

    def adopt(self, token: str, *, external: bool = False) -> None:
        """Takes a token of an earlier server for one of its own: a person stays signed in to the demo."""

        async def take() -> None:
            self.core.site.accounts.issue(GUEST if external else ADMIN, text=token, label="adopted")

        self._run(take())

    def submit_form(self, run_id: str, action: str = "approve", **answers: object) -> None:
        """Fills in the form of a paused run. Raises ValueError if it is not paused."""

        async def fill() -> None:
            self.core.submit_form(run_id, action, answers or {"comment": "ok"})

        self._run(fill())
