"""The built-in simulated Dify in place of a server of one's own (--demo)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from dify_batch.settings import Secret, Settings


@contextlib.contextmanager
def demonstration(settings: Settings) -> Iterator[Settings]:
    """A simulated Dify, as long as the context lasts, and the settings that lead to its app of the kind asked for."""
    from dify_batch.simulator import DEMO_KEYS, Config, Simulator

    key = Secret(DEMO_KEYS[settings.app_kind or "workflow"])
    with Simulator(Config()) as simulator:
        yield replace(settings, base_url=simulator.base_url, api_key=key, workflow_id=None)


@contextlib.contextmanager
def account_demonstration(host: str, token: str, kind: str | None) -> Iterator[str]:
    """A simulated Dify for its account surface, and its address: in the shape that `demo-B` or `demo-C` names. The
    token of an earlier one is good here, too, and a sign-in approves itself."""
    from dify_batch.simulator import Config, Simulator

    shape = host[-1] if "-" in host else "A"
    external = kind == "external"
    config = Config(api_shape=shape, device_approval=1.0, device_interval=1.0, external_sso=int(external))
    with Simulator(config) as simulator:
        if token:
            simulator.adopt(token, external=external)
        yield simulator.base_url.removesuffix("/v1")
