"""The built-in simulated Dify in place of a server of one's own (--demo)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from dify_batch.settings import Secret, Settings


@contextlib.contextmanager
def demonstration(settings: Settings) -> Iterator[Settings]:
    """A simulated Dify, as long as the context lasts, and the settings that lead to it."""
    from dify_batch.simulator import Config, Simulator

    with Simulator(Config()) as simulator:
        yield replace(settings, base_url=simulator.base_url, api_key=Secret(simulator.api_key), workflow_id=None)
