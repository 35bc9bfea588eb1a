"""A long batch against a server with a queue of four places, whose gateway fails and whose client is killed, for a
release:

    python -m tests.faults.soak --rows 20000 --policy safe

The exit status is 0 only if no row was executed twice, lost, or given another row's answer.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from dify_batch.simulator import Config, SimulatorProcess
from tests.faults.campaign import killed_after
from tests.support.harness import command, environment, places, run, write_csv
from tests.support.verdict import judge

MIX = {"error_502": 0.005, "error_502_run": 0.005, "cut_after_accept": 0.003, "cut_after_start": 0.003, "failed": 0.002}
# Seconds between two kills: each invocation gets some hundreds of rows.
_BETWEEN = (8.0, 25.0)
# One invocation of it all, without a kill, at the slowest that was seen.
_LONGEST = 3600.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--policy", choices=["safe", "strict"], default="safe")
    asked = parser.parse_args()
    rng, began = random.Random(asked.policy), time.monotonic()
    flags = ("-i", "data.csv", "-o", "results.jsonl", "-q", "-c", "8", "--settle", "1", "--retry-policy", asked.policy)
    server_like = Config(
        latency=0.03, latency_tail=0.5, workers=4, connections=10, overtaking=0.02, linger_after_finish=0.05
    )
    with tempfile.TemporaryDirectory() as name, SimulatorProcess(server_like) as server:
        folder, kills = Path(name), 0
        output = folder / "results.jsonl"
        ids = write_csv(folder / "data.csv", asked.rows)
        server.faults(mix=MIX, seed=1)
        while kills < asked.kills and killed_after(command(*flags), folder, server, rng.uniform(*_BETWEEN)) is None:
            kills += 1
        ends = []
        for retry in ([], ["--retry"], ["--retry"]):
            ends.append(run(folder, environment(server.base_url), *flags, *retry, timeout=_LONGEST).status)
            found = places(output)
            print(f"{len(found.done)} done, {len(found.retry)} in .retry, exit status {ends[-1]}", flush=True)
        verdict = judge(server.ledger(), output, ids)
        posts = server.state(runs=False)["post_total"]
    seconds = time.monotonic() - began
    print(f"{asked.policy}: {asked.rows} rows, {kills} kills, {posts} POSTs, {seconds:.0f} s, {verdict}")
    return 0 if verdict.well else 1


if __name__ == "__main__":
    sys.exit(main())
