"""A Dify 1.14 on loopback, to try things and test against, faults included.

`Simulator` serves from a thread, `SimulatorProcess` from a process of its own, `python -m dify_batch.simulator` from
a shell. What it answers is modelled on recorded exchanges with a real Dify 1.14.2 ("dify-wire" in the comments).
"""

from __future__ import annotations

try:
    import httptools as _httptools  # noqa: F401
    import starlette as _starlette  # noqa: F401
    import uvicorn as _uvicorn  # noqa: F401
except ImportError as e:
    raise ImportError(
        f"the simulator needs {e.name}, which is not installed; install dify-batch[demo]", name=e.name
    ) from e

from .config import Config
from .faults import RUN_FAULTS, SERVER_FAULTS, Fault
from .process import SimulatorProcess
from .server import Simulator

__all__ = ["RUN_FAULTS", "SERVER_FAULTS", "Config", "Fault", "Simulator", "SimulatorProcess"]
