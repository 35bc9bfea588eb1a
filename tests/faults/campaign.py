"""A campaign of kill -9 against a server with a queue, for a release:

    python -m tests.faults.campaign --batches 100 --kills 1000

Each batch has flags, a server and faults of its own, drawn from its number. It is killed again and again, at random
moments, with `--retry` between; then it is let run to its end. The server's ledger and the files tell what came of it.
The exit status is 0 only if no row was executed twice, lost, or given another row's answer.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dify_batch.simulator import Config, SimulatorProcess
from tests.support.harness import LIMIT, command, environment, places, write_csv
from tests.support.verdict import Verdict, judge

# One request in ten meets one of these; the runs of most go on.
MIX = {
    "cut_before": 0.02,
    "cut_after_accept": 0.02,
    "cut_after_start": 0.02,
    "error_500_run": 0.01,
    "error_502": 0.01,
    "error_502_run": 0.02,
    "failed": 0.01,
}
# Invocations without a kill that bring a batch to its end: a plain one and two of --retry, and as many to spare.
_TO_THE_END = 6


def server_of(rng: random.Random) -> Config:
    """A server that queues: few places, one or two workers, tasks that overtake each other."""
    return Config(
        latency=rng.choice([0.1, 0.3, 1.0]),
        latency_tail=0.5,
        workers=rng.choice([2, 4, 4]),
        worker_processes=rng.choice([1, 1, 2]),
        prefetch=rng.choice([0, 0, 1]),
        overtaking=rng.choice([0.0, 0.05, 0.2]),
        connections=rng.choice([None, 10]),
        linger_after_finish=0.1,
    )


def flags_of(rng: random.Random) -> list[str]:
    """Flags that may differ from invocation to invocation."""
    flags = ["--mode", rng.choice(["auto", "streaming", "blocking"]), "-c", rng.choice(["2", "5", "8", "20", "auto"])]
    flags += ["--retry-policy", rng.choice(["safe", "safe", "strict"])]
    # The least age of a lost row is twelve times this: 6 s, some runs long.
    flags += ["--settle", "0.5", "--timeout", rng.choice(["3", "20"])]
    return flags + rng.choice([[], [], ["--keep-order"], ["--rate", "30/s"], ["--limit", "20"]])


def killed_after(arguments: Sequence[str], folder: Path, server: SimulatorProcess, seconds: float) -> int | None:
    """Lets the command run for so long and kills it then; None: it was killed, else its exit status."""
    with (folder / "stderr.txt").open("ab") as stderr:
        batch = subprocess.Popen(arguments, cwd=folder, env=environment(server.base_url), stderr=stderr)
        try:
            return batch.wait(seconds)
        except subprocess.TimeoutExpired:
            os.kill(batch.pid, signal.SIGKILL)
            batch.wait(LIMIT)
            return None


def one_batch(number: int, kills: int, rows: int) -> tuple[Verdict, int]:
    """Its verdict, and how often it was killed."""
    rng = random.Random(f"campaign {number}")
    always = ["-i", "data.csv", "-o", "results.jsonl", "-q", *rng.choice([[], [], ["--user", "nightly"]])]
    done = 0
    with tempfile.TemporaryDirectory() as name, SimulatorProcess(server_of(rng)) as server:
        folder = Path(name)
        output = folder / "results.jsonl"
        ids = write_csv(folder / "data.csv", rows)
        server.faults(mix=MIX, seed=number)
        while done < kills and len(places(output).done) < rows:
            retry = ["--retry"] if rng.random() < 0.25 and output.with_name(output.name + ".retry").exists() else []
            status = killed_after(command(*always, *flags_of(rng), *retry), folder, server, rng.uniform(0.3, 2.5))
            done += status is None
            if status not in (None, 0, 1, 75):
                raise RuntimeError(
                    f"batch {number}: exit status {status}: {(folder / 'stderr.txt').read_text()[-800:]}"
                )
        server.faults({})
        for turn in range(_TO_THE_END):
            retry = ["--retry"] if turn % 3 else []
            killed_after(command(*always, "--settle", "0.5", "--timeout", "20", *retry), folder, server, LIMIT)
            if len(places(output).done) == rows:
                break
        verdict = judge(server.ledger(), output, ids)
        verdict.lost += sorted(places(output).retry | places(output).running)  # all can succeed now, and two asked so
        return verdict, done


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.campaign")
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--kills", type=int, default=1000, help="over all batches")
    parser.add_argument("--rows", type=int, default=120, help="of each batch")
    parser.add_argument("--first", type=int, default=0, help="number of the first batch")
    asked = parser.parse_args()
    kills, whole = 0, Verdict()
    for number in range(asked.first, asked.first + asked.batches):
        verdict, times = one_batch(number, -(-asked.kills // asked.batches), asked.rows)
        print(f"batch {number}: {times} kills, {verdict}", flush=True)
        kills += times
        whole.executed += verdict.executed
        for name in ("twice", "lost", "wrong"):
            getattr(whole, name).extend(f"{number}/{row}" for row in getattr(verdict, name))
    print(f"{asked.batches} batches, {kills} kills, {whole}")
    return 0 if whole.well else 1


if __name__ == "__main__":
    sys.exit(main())
