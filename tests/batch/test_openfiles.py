"""The limit of open files is this machine's: it is raised, or fewer runs are in flight, and never called an outage."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from dify_batch.batch.openfiles import KEPT, Limits, fit, lowered
from dify_batch.simulator import Config, Simulator
from tests.support.harness import LIMIT, command, environment, places, write_csv


@pytest.mark.parametrize(
    ("wanted", "limits", "may_raise", "fits", "raised"),
    [
        (5, (1024, 4096), True, 5, None),  # nothing is done where nothing is needed
        (2000, (1024, 4096), True, 2000, 2000 + KEPT + 10),
        (2000, (1024, -1), True, 2000, 2000 + KEPT + 10),
        (5000, (1024, 4096), True, 4096 - KEPT - 10, 4096),
        (5000, (1024, 1024), True, 1024 - KEPT - 10, None),
        (5000, (1024, 4096), False, 1024 - KEPT - 10, 4096),
        (5000, (-1, -1), True, 5000, None),
        (5000, None, True, 5000, None),
        (5, (20, 20), True, 1, None),
    ],
)
def test_how_many_fit(wanted: int, limits: Limits | None, may_raise: bool, fits: int, raised: int | None) -> None:
    asked: list[int] = []

    def raise_to(soft: int) -> bool:
        asked.append(soft)
        return may_raise

    assert fit(wanted, limits=limits, raise_to=raise_to, open_now=10) == fits
    assert asked == ([] if raised is None else [raised])


def test_what_is_said() -> None:
    assert lowered(5, 5) is None
    assert lowered("auto", 100) is None
    said = lowered(500, 100)
    assert said is not None
    assert "at most 100 runs in flight in place of 500" in said


@pytest.mark.parametrize("hard", [150])
def test_a_batch_with_few_open_files_goes_on_with_fewer_runs(tmp_path: Path, hard: int) -> None:
    import subprocess

    resource = pytest.importorskip("resource")
    ids = write_csv(tmp_path / "rows.csv", 300)
    with Simulator(Config(latency=0.2)) as server:
        done = subprocess.run(
            command("-i", "rows.csv", "-o", "o.jsonl", "-c", "200", "-v"),
            cwd=tmp_path,
            env=environment(server.base_url),
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (hard - 50, hard)),
        )
    assert done.returncode == 0, done.stderr
    assert set(places(tmp_path / "o.jsonl").done) == set(ids)
    assert done.stderr.count("this process may not open more files") == 1
    assert "waiting for" not in done.stderr
    assert os_error(errno.EMFILE) not in done.stderr


def os_error(number: int) -> str:
    import os

    return os.strerror(number)
