"""A simulated server of each shape, and the commands that speak to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dify_batch.simulator import Config, Simulator
from tests.support.account_cli import AccountCli
from tests.support.accounts import SHAPES


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def sim(shape: str) -> Iterator[Simulator]:
    config = Config(api_shape=shape, latency=0.02, linger_after_finish=0.0, snapshot_delay=0.0, device_interval=0.0)
    with Simulator(config) as running:
        yield running


@pytest.fixture
def signed_out(sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> AccountCli:
    return AccountCli(sim, tmp_path, monkeypatch, capsys)


@pytest.fixture
def cli(signed_out: AccountCli) -> AccountCli:
    signed_out.login()
    return signed_out
