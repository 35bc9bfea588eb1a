"""Known faults, switched in one at a time: each must be found, else the world is too tame.

A fault is a function that puts something wrong in the place of something right. It is found when a history of some
seed goes wrong with it; `python -m tests.world --mutants` plays seeds until that is so, and prints which was found by
what after how many. The history that shows it, shrunk, is kept under `mutants/`, and a test plays it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import multiprocessing
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dify_batch.batch import execution, selection
from dify_batch.engine import absence, conductor, course, lookups, resume
from dify_batch.engine.absence import Evidence
from dify_batch.engine.claims import Claims
from dify_batch.engine.facts import Answered, Fact
from dify_batch.engine.pool import Pool
from dify_batch.engine.row import Row, Stage
from dify_batch.errors import DifyBatchError
from dify_batch.ledger.appendfile import AppendFile
from dify_batch.ledger.lock import OutputLock
from dify_batch.ledger.retryfile import RetryFile
from dify_batch.ledger.store import Ledger
from dify_batch.ledger.writer import Writer
from dify_batch.outcomes import Lost, Running
from tests.world.generate import generate
from tests.world.history import History
from tests.world.run import play
from tests.world.server import KEY
from tests.world.shrink import shrink
from tests.world.story import table

KEPT = Path(__file__).with_name("mutants")
Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Mutant:
    """`what`: the fault, in words."""

    what: str
    switch: Callable[[Patch], None]


def _time_alone(patch: Patch) -> None:
    def lacking(evidence: Evidence, both_since: float | None, *, settle: float, age: float) -> str | None:
        return None if evidence.age >= settle else "time"

    patch.setattr(lookups, "lacking", lacking)


def _without(**given: Any) -> Callable[[Patch], None]:
    """The proof of absence with part of the evidence taken for granted."""

    def switch(patch: Patch) -> None:
        right = absence.lacking

        def lacking(evidence: Evidence, both_since: float | None, *, settle: float, age: float) -> str | None:
            evidence = dataclasses.replace(evidence, **given)
            return right(evidence, evidence.now - 1e6 if both_since is None else both_since, settle=settle, age=0.0)

        patch.setattr(lookups, "lacking", lacking)

    return switch


def _post_before_sync(patch: Patch) -> None:
    async def sent(self: Ledger, row_id: str, *, user: str, mode: str, **_: Any) -> int:
        row = self.row(row_id)
        self._note(row, "sent", row_id, attempt=row.posts + 1, user=user, mode=mode)
        return row.posts

    patch.setattr(Ledger, "sent", sent)


def _done_before_result(patch: Patch) -> None:
    def result(self: Writer, line: bytes, done: bytes) -> None:
        def write() -> None:
            self._next.results.append(line)
            self._linger()

        self.record(done)
        asyncio.get_running_loop().call_later(0.3, write)

    patch.setattr(Writer, "result", result)


def _claims_forgotten(patch: Patch) -> None:
    patch.setattr(Claims, "claim", lambda self, run_id, row_id: True)
    patch.setattr(Claims, "taken", lambda self, run_id, row_id: False)
    patch.setattr(Claims, "over", lambda self, run_id: False)
    patch.setattr(lookups.Lookups, "_is_free", lambda self, entry, work: True)


def _answered(change: Callable[[Row, Fact], Row | None]) -> Callable[[Patch], None]:
    """The course, but for one answer: where `change` gives a row, it is sent again."""

    def switch(patch: Patch) -> None:
        def advance(rules: course.Rules, row: Row, fact: Fact) -> course.Advance:
            changed = change(row, fact)
            return course._again(changed, "a fault") if changed is not None else course.advance(rules, row, fact)

        patch.setattr(conductor, "advance", advance)

    return switch


def _lost(row: Row, fact: Fact) -> Row | None:
    lost = isinstance(fact, Answered) and isinstance(fact.outcome, Lost) and row.stage is Stage.SENT
    return row if lost and row.repetition < 3 else None


def _running(row: Row, fact: Fact) -> Row | None:
    cut = isinstance(fact, Answered) and isinstance(fact.outcome, Running) and row.stage is Stage.SENT
    return row if cut and row.repetition < 3 else None


def _open_is_new(patch: Patch) -> None:
    def resumed(known: Any, *, may_send: bool, ask: Any = None) -> Row:
        return Row(may_send=may_send) if not known.run_id else right(known, may_send=may_send)

    right = resume.resumed
    patch.setattr(selection, "resumed", resumed)


def _no_lock(patch: Patch) -> None:
    patch.setattr(OutputLock, "acquire", lambda self: None)


def _retry_not_written(patch: Patch) -> None:
    patch.setattr(RetryFile, "write", lambda self, ids, known: 0)


def _always_well(patch: Patch) -> None:
    patch.setattr(execution, "closing_error", lambda *_, **__: None)


def _key_told(patch: Patch) -> None:
    begin = Ledger.begin
    patch.setattr(Ledger, "begin", lambda self, batch, **facts: begin(self, batch, **facts, note=KEY))


def _results_not_synced(patch: Patch) -> None:
    sync = AppendFile.sync
    patch.setattr(AppendFile, "sync", lambda self: None if self.path.suffix == ".jsonl" else sync(self))


def _one_place_more(patch: Patch) -> None:
    places = Pool._places
    patch.setattr(Pool, "_places", lambda self: places(self) + 1)


def _other_inputs(patch: Patch) -> None:
    right = Ledger._result_line
    patch.setattr(
        Ledger,
        "_result_line",
        lambda self, row_id, inputs, *rest, **more: right(self, row_id, {"id": row_id, "query": "?"}, *rest, **more),
    )


def _torn_stays(patch: Patch) -> None:
    from dify_batch.ledger import appendfile

    patch.setattr(appendfile, "whole_length", lambda path: (path.stat().st_size if path.exists() else 0, b""))


def _gives_up_with_the_server(patch: Patch) -> None:
    """An error that nobody foresaw."""

    def found(self: Any, *_: Any) -> None:
        raise KeyError("a fault")

    patch.setattr(lookups.Lookups, "_found", found)


def _never_woken(patch: Patch) -> None:
    patch.setattr(Writer, "_let_go", lambda *_: None)


def _failures_dropped(patch: Patch) -> None:
    """A row that failed is told to nobody."""
    patch.setattr(Ledger, "failed", lambda self, row_id, **_: None)


MUTANTS: dict[str, Mutant] = {
    "time_alone": Mutant("time alone proves absence", _time_alone),
    "drained": Mutant("absence counts while runs of before still go on", _without(unfinished=0)),
    "alive": Mutant("absence counts though nothing has started since", _without(alive=True, unfinished=0, last=True)),
    "post_before_sync": Mutant("the POST goes before its intent is durable", _post_before_sync),
    "done_before_result": Mutant("the journal says done before the result is there", _done_before_result),
    "claims_forgotten": Mutant("two rows may claim one run", _claims_forgotten),
    "lost_again": Mutant("a lost request is sent again at once", _answered(_lost)),
    "running_again": Mutant("a run whose stream is cut is sent again", _answered(_running)),
    "open_is_new": Mutant("what a killed process had sent is sent like a new row", _open_is_new),
    "no_lock": Mutant("two processes write one output", _no_lock),
    "retry_not_written": Mutant(".retry is not written", _retry_not_written),
    "always_well": Mutant("the exit status is 0 whatever happened", _always_well),
    "key_told": Mutant("the key stands in the journal", _key_told),
    "results_not_synced": Mutant("done is said of results that are not durable", _results_not_synced),
    "one_place_more": Mutant("one more run in flight than -c", _one_place_more),
    "other_inputs": Mutant("results hold other inputs than were sent", _other_inputs),
    "torn_stays": Mutant("torn last lines are not repaired", _torn_stays),
    "unforeseen": Mutant("an exception in a look-up", _gives_up_with_the_server),
    "never_woken": Mutant("who waits for the disk is forgotten", _never_woken),
    "failures_dropped": Mutant("a failure is written nowhere", _failures_dropped),
}


def wrong_with(name: str, history: History) -> set[str]:
    """The kinds of violation that a history shows with this fault."""
    with Patch.context() as patch:
        MUTANTS[name].switch(patch)
        try:
            return play(history).kinds
        except (DifyBatchError, RuntimeError) as error:
            return {f"error: {error}"}


@dataclass(frozen=True)
class Found:
    name: str
    seed: int | None
    kinds: tuple[str, ...] = ()
    history: str = ""


def _search(work: tuple[str, range]) -> Found:
    name, seeds = work
    for seed in seeds:
        history = generate(seed)
        kinds = wrong_with(name, history)
        if kinds and (kinds := kinds - play(history).kinds):
            history = shrink(history, partial(_shows, name, min(kinds)), most=40)
            return Found(name, seed, tuple(sorted(kinds)), history.to_json())
    return Found(name, None)


def _shows(name: str, kind: str, history: History) -> bool:
    return kind in wrong_with(name, history) and not play(history).violations


def hunt(names: list[str], seeds: range, processes: int) -> int:
    """Plays until each is found; keeps what shows it; prints the table. 0 if all were found."""
    began = time.perf_counter()
    works = [(name, seeds) for name in names or MUTANTS]
    rows, missed = [], 0
    KEPT.mkdir(exist_ok=True)
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        for one in pool.imap_unordered(_search, works, chunksize=1):
            after = "never"
            if one.seed is None:
                missed += 1
            else:
                after = str(one.seed - seeds[0] + 1)
                KEPT.joinpath(f"{one.name}.json").write_text(one.history + "\n")
            rows.append((one.name, MUTANTS[one.name].what, after, ", ".join(one.kinds)))
            print(f"{one.name}: {after}", file=sys.stderr, flush=True)
    print(table(("mutant", "what is wrong", "histories", "found by"), sorted(rows)))
    print(f"{len(rows)} mutants, {missed} not found, {time.perf_counter() - began:.0f} s")
    return 1 if missed else 0
