"""A Dify 1.14 to try things and test against, faults included.

`Simulator` serves from a thread, `SimulatorProcess` from a process of its own, `python -m dify_batch.simulator` from
a shell. What it answers is modelled on recorded exchanges with a real Dify 1.14.2 ("dify-wire" in the comments).

Two layers. The modules of this folder are what Dify does: `Site` is one server, with its database (`runs`, `files`,
`talks`, `ledger`, `account`), its queue and workers (`broker`), its API process (`api`) and what goes wrong (`faults`);
`engine` executes a run; `routes`, `posting`, `lookups` and `streams` answer a request that somebody has read for them,
`chatflow`, `turns` and `chat_*` those of the apps that talk, `account_*` those to the account surface, in the shape
that `Config.api_shape` names. They do no I/O, use no thread and no clock but those that `Means` hands them, and wait by
the event loop alone. `served/` is how that reaches a client: `http` by aiohttp.web in any event loop, `port` on
loopback, `server` in a thread, `process` in a process.
"""

from __future__ import annotations

from .config import Config
from .faults import RUN_FAULTS, SERVER_FAULTS, Fault
from .kinds import DEMO_KEYS
from .ledger import Execution
from .means import Means
from .served.http import HttpServer, site_server
from .served.process import SimulatorProcess
from .served.server import Simulator
from .site import Site

__all__ = [
    "DEMO_KEYS",
    "RUN_FAULTS",
    "SERVER_FAULTS",
    "Config",
    "Execution",
    "Fault",
    "HttpServer",
    "Means",
    "Simulator",
    "SimulatorProcess",
    "Site",
    "site_server",
]
