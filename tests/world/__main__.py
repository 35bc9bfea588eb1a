"""The command line of the world.

python -m tests.world --seeds 0:1000 -j 2     plays the histories of these seeds; exit 0 only without a violation
python -m tests.world --seed 4711 -v          plays one and tells it
python -m tests.world --history FILE          plays a history from its JSON (`-`: standard input)
python -m tests.world --mutants               plays seeds with known faults, until each is found
python -m tests.world --coverage              which lines of the rules the seeds reach
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from dify_batch.simulator import DEMO_KEYS
from tests.world.generate import generate
from tests.world.history import History
from tests.world.run import Verdict, play
from tests.world.shrink import shrink
from tests.world.story import again, story


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.world", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0:1000", help="from:to, the last not included")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--history", help="a file with the JSON of a history, or - for standard input")
    parser.add_argument("-j", type=int, default=1, help="processes")
    parser.add_argument("-v", action="count", default=0, help="tell the whole history; twice: with the log")
    parser.add_argument("--control", action="store_true", help="no queue and no faults: must find nothing")
    parser.add_argument("--kind", choices=DEMO_KEYS, default="workflow", help="of the app that is asked")
    parser.add_argument("--keep-going", action="store_true", help="show each kind of violation, not only the first")
    parser.add_argument("--mutants", nargs="*", metavar="NAME")
    parser.add_argument("--coverage", action="store_true")
    options = parser.parse_args()
    seeds = range(*map(int, options.seeds.split(":")))
    if options.mutants is not None:
        from tests.world.mutants import hunt

        return hunt(options.mutants, seeds, options.j)
    if options.coverage:
        from tests.world.coverage import show

        return show(seeds, options.j)
    if options.history or options.seed is not None:
        return _one(
            _read(options.history) if options.history else generate(options.seed, kind=options.kind), tell=options.v
        )
    return _many(seeds, options.j, options.kind, tame=options.control, keep_going=options.keep_going)


def _read(name: str) -> History:
    return History.from_json(sys.stdin.read() if name == "-" else Path(name).read_text())


def _one(history: History, *, tell: int) -> int:
    verdict = play(history, log=logging.DEBUG if tell > 1 else logging.CRITICAL, stories=tell > 0)
    if tell or verdict.violations:
        print(story(history, verdict))
    print(
        f"1 history, {verdict.executed} rows executed, {verdict.invocations} invocations, "
        f"{len(verdict.violations)} violations"
    )
    return 1 if verdict.violations else 0


def played(work: tuple[int, bool, str]) -> tuple[int, Verdict]:
    seed, tame, kind = work
    return seed, play(generate(seed, tame=tame, kind=kind))


def results(works: Iterable[tuple[int, bool, str]], processes: int) -> Iterator[tuple[int, Verdict]]:
    """Verdicts as they come."""
    if processes == 1:
        yield from map(played, works)
        return
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        yield from pool.imap_unordered(played, works, chunksize=8)


def _many(seeds: range, processes: int, of: str, *, tame: bool, keep_going: bool) -> int:
    began = time.perf_counter()
    kinds: Counter[str] = Counter()
    first: dict[str, int] = {}
    states: set[str] = set()
    executed = invocations = histories = violations = 0
    for seed, verdict in results(((seed, tame, of) for seed in seeds), processes):
        histories += 1
        executed += verdict.executed
        invocations += verdict.invocations
        violations += len(verdict.violations)
        states.add(verdict.state)
        for kind in verdict.kinds:
            kinds[kind] += 1
            print(f"{kind}: --seed {seed}", file=sys.stderr, flush=True)
            if seed < first.get(kind, seed + 1):
                first[kind] = seed
    for kind, seed in sorted(first.items()):
        print(f"--- {kind}: {kinds[kind]} histories, the first with --seed {seed}")
        if keep_going or kind == min(first):
            history = shrink(generate(seed, tame=tame, kind=of), lambda h, kind=kind: kind in play(h).kinds)  # type: ignore[misc]
            print(story(history, play(history)))
            print(again(history))
    seconds = time.perf_counter() - began
    each = 1000 * seconds * processes / max(1, histories)
    print(f"{len(states)} distinct end states, {seconds:.0f} s, {each:.0f} ms each")
    print(f"{histories} histories, {executed} rows executed, {invocations} invocations, {violations} violations")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
