"""One simulated Dify: its database, its queue and workers, its API process, and what goes wrong with them.

It does no I/O. The event loop is its timer, a clock and chance are given to it. `HttpServer` serves it.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from .account import Accounts
from .api import Api
from .apps import APPS, App
from .broker import Broker
from .config import Config
from .engine import Engine
from .files import FileStore
from .kinds import KINDS
from .ledger import Ledger
from .means import Means
from .plan import FaultPlan
from .runs import Registry, Run
from .talks import Talks
from .turns import Turn
from .users import EndUsers


class Site:
    """The simulated server. To be used in one event loop only.

    Durable, whatever is killed: registry, files, ledger, queue. In memory only: what `api` and the workers execute.
    """

    def __init__(self, config: Config, means: Means | None = None) -> None:
        self.config: Config = config
        self.means: Means = means or Means()
        self.means.skew = config.clock_skew
        self.apps: dict[str, App] = APPS | KINDS
        self.api: Api = Api(config)
        self._fill()

    def _fill(self) -> None:
        self.broker: Broker = Broker(self.config, self.means)
        self.registry: Registry = Registry()
        self.ledger: Ledger = Ledger()
        self.files: FileStore = FileStore(self.means)
        self.talks: Talks = Talks(self.means)
        self.users: EndUsers = EndUsers(self.config, self.means)
        self.turns: dict[str, Turn] = {}  # by task id: what models are saying now
        self.engine: Engine = Engine(self.config, self.means, self.broker, self.registry, self.ledger)
        self.plan: FaultPlan = FaultPlan()
        self.posts: dict[str, int] = {}
        self.requests: dict[str, int] = {}
        self.post_total = 0
        self.flight: Flight = Flight()

    @cached_property
    def accounts(self) -> Accounts:
        """The account surface's people, tokens and apps, which a reset leaves: made once somebody asks for them."""
        return Accounts(self.config, self.means, APPS)

    def reset(self) -> None:
        """Forgets every run, file, counter and fault. What is being executed goes on, and nobody hears of it."""
        self.broker.clear()
        self.api.active = {}
        self._fill()

    def close(self) -> None:
        """Ends everything."""
        self.broker.close()
        self.engine.close()
        self.api.close()

    def configure(self, config: Config) -> None:
        """Takes new settings while running."""
        self.users.config = self.config = self.engine.config = self.broker.config = self.api.config = config
        if "accounts" in self.__dict__:
            self.accounts.config = config
        self.means.skew = config.clock_skew
        self.broker.pump()
        self.api.admit()

    def crash(self, what: str, number: int | None = None) -> None:
        """SIGKILL for "api" or "worker" (all workers, or one). Raises ValueError."""
        if what == "api":
            self.api.kill()
        elif what == "worker":
            self.broker.kill(number)
        else:
            raise ValueError(f"crash: api or worker, got {what!r}")

    def restart(self, what: str, number: int | None = None) -> None:
        """Starts what was killed. Raises ValueError."""
        if what == "api":
            self.api.start()
        elif what == "worker":
            self.broker.start(number)
        else:
            raise ValueError(f"restart: api or worker, got {what!r}")

    def state(self, with_runs: bool = True) -> dict[str, Any]:
        """What GET /state of the control port tells."""
        engine = self.engine
        result: dict[str, Any] = {
            "executions": dict(self.ledger.counts),
            "posts": dict(self.posts),
            "post_total": self.post_total,
            "in_flight": self.flight.now,
            "max_in_flight": self.flight.most,
            "running": engine.running,
            "max_running": engine.max_running,
            "queued": self.broker.queued,
            "listening": self.api.listening,
            "requests": dict(self.requests),
            "named": self.talks.named,
        }
        if with_runs:
            result["runs"] = [_run_row(run) for run in self.registry.by_id.values()]
        return result


def _run_row(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "task_id": run.task_id,
        "user": run.user,
        "status": run.status,
        "row": run.row,
        "mode": run.mode,
        "created_at": int(run.created_at),
    }


class Flight:
    """How many POSTs wait for their answer, now and at most."""

    __slots__ = ("most", "now")

    def __init__(self) -> None:
        self.now: int = 0
        self.most: int = 0


class OpenPost:
    """Counts a POST as in flight until its client has the answer, or has gone."""

    __slots__ = ("_flight",)

    def __init__(self, flight: Flight) -> None:
        self._flight: Flight | None = flight
        flight.now += 1
        flight.most = max(flight.most, flight.now)

    def answered(self) -> None:
        """Counts it out; once."""
        if self._flight is not None:
            self._flight.now -= 1
            self._flight = None
