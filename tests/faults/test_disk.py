"""The command as real processes on a real disk that fills up, turns read-only, or is written by somebody else."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dify_batch.ids import parse_ids
from dify_batch.ledger.formats import BOM, Paths
from dify_batch.simulator import Config, SimulatorProcess
from tests.support.harness import (
    LIMIT,
    Ran,
    command,
    environment,
    executed_more_than_once,
    places,
    results,
    run,
    until,
    write_csv,
)

CONFIG = Config(latency=0.05, workers=None, linger_after_finish=0.05)
CALL = ("-i", "data.csv", "-o", "out/results.jsonl", "--json", "--settle", "1", "--concurrency", "4")
OUT = Path("out") / "results.jsonl"


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """A small file system of its own at `folder`; the test is left out where that is not allowed."""
    folder.mkdir()
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("only root on Linux can mount")
    done = subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def immutable(folder: Path) -> Iterator[Callable[[], None]]:
    """Gives a call after which no name in the folder can change, for root neither."""
    if shutil.which("chattr") is None or os.geteuid() != 0:
        pytest.skip("needs chattr and root")

    def make() -> None:
        done = subprocess.run(["chattr", "+i", str(folder)], capture_output=True, check=False)
        if done.returncode != 0:
            pytest.skip("this file system knows no immutable folders")

    try:
        yield make
    finally:
        subprocess.run(["chattr", "-i", str(folder)], capture_output=True, check=False)


def wide_csv(path: Path, rows: int) -> list[str]:
    """Rows whose results are long: the disk is full soon."""
    ids = [f"r{number}" for number in range(1, rows + 1)]
    path.write_text("id,query\n" + "".join(f"{row_id},{'é' * 1000}\n" for row_id in ids), encoding="utf-8")
    return ids


@contextmanager
def batch(folder: Path, server: SimulatorProcess, *more: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command(*CALL, *more),
        cwd=folder,
        env=environment(server.base_url),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=LIMIT)


def ended(process: subprocess.Popen[str]) -> Ran:
    out, err = process.communicate(timeout=LIMIT)
    return Ran(process.returncode, out, err)


def finished(folder: Path, server: SimulatorProcess, ids: list[str]) -> Ran:
    """The same command again finishes, and no row has been executed twice."""
    again = run(folder, environment(server.base_url), *CALL)
    assert again.status == 0, again.err
    found = places(folder / OUT)
    assert found.done == set(ids)
    assert not found.running | found.retry | found.paused
    assert executed_more_than_once(server) == {}
    assert set(server.state(runs=False)["executions"]) == set(ids)
    return again


@pytest.mark.parametrize("mode", ["streaming", "blocking"])
def test_a_full_disk_stops_the_batch_and_loses_nothing(mode: str, tmp_path: Path) -> None:
    ids = wide_csv(tmp_path / "data.csv", 60)
    with SimulatorProcess(CONFIG) as server, mounted(tmp_path / "out", "-o", "size=256k"):
        ballast = tmp_path / "out" / "ballast"
        ballast.write_bytes(b"x" * (160 << 10))
        done = run(tmp_path, environment(server.base_url), *CALL, "--mode", mode)
        assert (done.status, done.out) == (1, "")
        assert done.error["code"] == "storage_failed"
        assert "No space left on device" in done.error["message"]
        assert "free some space" in done.error["hint"]
        found = places(tmp_path / OUT)  # whole lines, each row in one place
        assert 0 < len(found.done) < len(ids)
        journal = Paths.of(tmp_path / OUT).journal.read_bytes()
        assert journal.endswith(b"\n")
        executed = set(server.state(runs=False)["executions"])
        assert executed <= found.done | found.running
        subprocess.run(["mount", "-o", "remount,size=8m", str(tmp_path / "out")], check=True)
        ballast.unlink()
        finished(tmp_path, server, ids)


def test_a_disk_that_is_full_from_the_beginning(tmp_path: Path) -> None:
    write_csv(tmp_path / "data.csv", 3)
    with SimulatorProcess(CONFIG) as server, mounted(tmp_path / "out", "-o", "size=64k"):
        ballast = tmp_path / "out" / "ballast"
        with pytest.raises(OSError, match="No space"):
            ballast.write_bytes(b"x" * (1 << 20))
        done = run(tmp_path, environment(server.base_url), *CALL)
        assert (done.status, done.error["code"]) == (1, "storage_failed")
        assert server.state(runs=False)["executions"] == {}
        ballast.unlink()
        finished(tmp_path, server, ["r1", "r2", "r3"])


def test_a_folder_that_turns_read_only(tmp_path: Path) -> None:
    """What is open can still be written, but no file can be replaced: `.retry` cannot be told."""
    ids = write_csv(tmp_path / "data.csv", 40)
    output = tmp_path / OUT
    output.parent.mkdir()
    with SimulatorProcess(CONFIG) as server:
        server.faults(rows={"r30": ["failed"]})
        with batch(tmp_path, server) as process, immutable(output.parent) as make:
            until(lambda: output.exists() and output.read_bytes().count(b"\n") >= 5, "five results")
            make()
            done = ended(process)
        assert (done.status, done.out) == (1, "")
        assert done.error["code"] == "storage_failed"
        assert f"make {Path('out')} writable" in done.error["hint"]
        assert "r30" not in places(output).done
        again = run(tmp_path, environment(server.base_url), *CALL)
        found = places(output)
        assert again.summary["success"] + again.summary["done_before"] == 39
        assert found.retry == {"r30"}
        assert found.done == set(ids) - {"r30"}
        assert executed_more_than_once(server) == {}
        assert parse_ids(Paths.of(output).retry.read_bytes()) == ["r30"]


@pytest.mark.parametrize("harm", ["cut", "emptied", "deleted", "moved"])
def test_results_that_somebody_harms_while_the_batch_runs(harm: str, tmp_path: Path) -> None:
    ids = write_csv(tmp_path / "data.csv", 30)
    output = tmp_path / OUT
    output.parent.mkdir()
    with SimulatorProcess(CONFIG) as server:
        with batch(tmp_path, server) as process:
            until(lambda: output.exists() and output.read_bytes().count(b"\n") >= 6, "six results")
            match harm:
                case "cut":
                    os.truncate(output, 100)
                case "emptied":
                    os.truncate(output, 0)
                case "deleted":
                    output.unlink()
                case "moved":
                    output.rename(tmp_path / "moved.jsonl")
            done = ended(process)
        assert (done.status, done.out) == (1, "")
        assert done.error["code"] == "storage_failed"
        assert "changed by somebody else while the batch ran" in done.error["message"]
        again = finished(tmp_path, server, ids)
        assert again.summary["recovered"] >= 5
        assert output.read_bytes().startswith(BOM)
        assert {line["inputs"]["query"] for line in results(output)} == {f"question {row_id}" for row_id in ids}


def test_two_processes_on_one_output_and_kill_9(tmp_path: Path) -> None:
    ids = write_csv(tmp_path / "data.csv", 12)
    output = tmp_path / OUT
    output.parent.mkdir()
    with SimulatorProcess(CONFIG) as server:
        server.configure(latency=8.0)  # it is not through before the second has begun, however slow the machine
        with batch(tmp_path, server) as first:
            until(lambda: Paths.of(output).journal.exists() and server.state(False)["executions"] != {}, "a run")
            second = run(tmp_path, environment(server.base_url), *CALL)
            assert (second.status, second.out) == (75, "")
            assert second.error["code"] == "output_locked"
            assert f"process {first.pid} on {socket.gethostname()}" in second.error["message"]
            first.kill()
            first.wait(LIMIT)
        server.configure(latency=0.05)
        finished(tmp_path, server, ids)
        assert not Paths.of(output).lock.exists()


@pytest.mark.parametrize("flags", [("--json",), (), ("-v",)])
def test_a_log_file_on_a_full_disk_harms_nothing(tmp_path: Path, flags: tuple[str, ...]) -> None:
    write_csv(tmp_path / "data.csv", 8)
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    call = ("-i", "data.csv", "-o", "results.jsonl", "--log-file", "/dev/full")
    with SimulatorProcess(CONFIG) as server:
        done = run(tmp_path, environment(server.base_url), *call, *flags)
    assert done.status == 0
    assert "Traceback" not in done.err
    assert len(places(tmp_path / "results.jsonl").done) == 8
    if "--json" in flags:
        assert done.err == ""
        assert [warning["code"] for warning in done.summary["warnings"]] == ["log_incomplete"]
    else:
        assert "/dev/full is not whole: No space left on device" in done.err
