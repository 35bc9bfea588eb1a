"""The key stands nowhere: not on a channel, in a log, a journal, or any other file of a batch."""

from __future__ import annotations

from pathlib import Path

import pytest

from dify_batch.simulator import Config, SimulatorProcess
from tests.support.harness import environment, run, write_csv

KEY = "app-echo"


@pytest.mark.parametrize("flags", [("-vv",), ("--json",), ("-vv", "--log-format", "json"), ("--dry-run",)])
def test_the_key_stands_nowhere(flags: tuple[str, ...], tmp_path: Path) -> None:
    write_csv(tmp_path / "data.csv", 12)
    faults = ("cut_before", "error_500", "rejected", "failed", "throttle_429", "cut_after_start")
    with SimulatorProcess(Config(latency=0.05, workers=None, linger_after_finish=0.1)) as server:
        server.faults(rows={f"r{number}": [fault] for number, fault in enumerate(faults, 1)} | {"r12": ["bad_key"]})
        shared = ("-i", "data.csv", "-o", "results.jsonl", "--settle", "0.5", "--log-file", "batch.log", *flags)
        first = run(tmp_path, environment(server.base_url), *shared)
        refused = run(tmp_path, environment(server.base_url, key="app-nobody-knows-it"), *shared)
        assert refused.status == 4
    said = [first.out, first.err, refused.out, refused.err]
    written = [path.read_text(encoding="utf-8-sig") for path in tmp_path.iterdir()]
    assert len(written) >= (2 if "--dry-run" in flags else 4)
    for text in said + written:
        for key in (KEY, "app-nobody-knows-it", "Bearer "):
            assert key not in text
