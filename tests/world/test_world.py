"""The world itself: it repeats itself, knows death from an orderly end, and finds nothing where nothing goes wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dify_batch.batch import execution
from dify_batch.ledger.store import Ledger
from dify_batch.outcomes import RunRef
from tests.world.generate import generate
from tests.world.history import Cut, Deed, DiskTrouble, History, Invocation, Network, Row, Server, of_kind
from tests.world.reader import read
from tests.world.run import play
from tests.world.shrink import shrink
from tests.world.story import story

KEPT = sorted(Path(__file__).with_name("histories").glob("*.json"))
ROWS = tuple(Row(id=f"r{number}", query=f"question {number}") for number in range(1, 7))


@pytest.mark.parametrize("seed", range(50))
def test_a_history_reads_back_as_it_was(seed: int) -> None:
    history = generate(seed)
    assert History.from_json(history.to_json()) == history


@pytest.mark.parametrize("seed", [1, 5, 9])
def test_the_same_history_plays_the_same(seed: int) -> None:
    history = generate(seed)
    first, second = play(history), play(history)
    assert first.told == second.told
    assert first.state == second.state


@pytest.mark.parametrize("seed", range(12))
def test_the_control_finds_nothing(seed: int) -> None:
    """No queue, no faults."""
    verdict = play(generate(seed, tame=True))
    assert verdict.violations == []
    assert verdict.executed > 0


@pytest.mark.parametrize("kind", ["chatflow", "chat", "agent", "completion"])
@pytest.mark.parametrize("seed", range(8))
def test_every_kind_of_app_keeps_what_it_promises(kind: str, seed: int) -> None:
    verdict = play(generate(seed, kind=kind))
    assert verdict.violations == []
    assert verdict.executed > 0


def test_a_user_that_is_not_made_known_first_costs_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The world finds it, so that its silence means something."""

    async def at_once(*_: object) -> None:
        return None

    impatient = (Invocation(flags=(("timeout", 0.4),)),)  # it is looked up while the server still makes its user
    history = of_kind(History(seed=1, rows=ROWS, server=Server(latency=5.0), invocations=impatient), "chat")
    assert play(history).violations == []
    monkeypatch.setattr("dify_batch.dify.kinds.users.KnownUsers.make", at_once)
    assert play(history).kinds == {"twice"}


@pytest.mark.parametrize("kind", ["workflow", "chatflow", "chat", "completion"])
@pytest.mark.parametrize("seed", range(12))
def test_a_journal_that_is_written_anew_at_every_beginning_loses_nothing(
    kind: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "worth_it", lambda state: True)
    assert play(generate(seed, kind=kind)).violations == []


def test_a_conversation_that_no_row_claims_mixes_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chatflow's run has two names; the world finds it if the second is forgotten."""
    history = generate(1, kind="chatflow")
    assert play(history).violations == []
    started = Ledger.started

    def forgetful(ledger: Ledger, row_id: str, ref: RunRef, **more: Any) -> None:
        started(ledger, row_id, replace(ref, conversation_id=None), **more)

    monkeypatch.setattr(RunRef, "names", property(lambda ref: (ref.run_id,)))
    monkeypatch.setattr(Ledger, "started", forgetful)
    assert play(history).kinds == {"mixed"}


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_what_went_wrong_once_goes_right(path: Path) -> None:
    history = History.from_json(path.read_text())
    assert history.note, "a kept history says what it was"
    assert play(history).violations == []


def test_a_killed_process_leaves_what_it_had_written_and_the_next_one_goes_on() -> None:
    history = History(
        seed=1,
        rows=ROWS,
        server=Server(latency=25.0),
        invocations=(Invocation(deeds=(Deed(at=8.0, what="kill"),)), Invocation(pause=20.0)),
    )
    verdict = play(history)
    assert verdict.violations == []
    assert any("#1 ends: kill" in line for line in verdict.told)
    assert any("#2 ends: status 0" in line and "6 success" in line for line in verdict.told)
    assert verdict.executed == len(ROWS)


@pytest.mark.parametrize("what", ["kill", "power"])
@pytest.mark.parametrize("at", range(1, 40, 3))
def test_death_at_any_operation_of_the_disk(at: int, what: str) -> None:
    trouble = DiskTrouble(at=at, what=what, kept=0.5)
    history = History(seed=at, rows=ROWS, server=Server(latency=1.0), invocations=(Invocation(disk=trouble),))
    assert play(history).violations == []


def test_connections_are_cut_where_the_history_says() -> None:
    cuts = tuple(Cut(connection=number, side="down", after=300) for number in range(3, 8))
    verdict = play(History(seed=3, rows=ROWS, server=Server(latency=1.0), network=Network(cuts=cuts)))
    assert sum("is cut" in line for line in verdict.told) == len(cuts)
    assert verdict.violations == []


def test_the_shrinker_leaves_out_what_is_not_needed() -> None:
    history = generate(7)
    small = shrink(history, lambda candidate: any(row.id == "r2" for row in candidate.rows))
    assert [row.id for row in small.rows] == ["r2"]
    assert small.server == Server()
    assert small.network == Network()
    assert small.invocations == (Invocation(),)


def test_the_reader_tells_where_each_row_is(tmp_path: Path) -> None:
    output = tmp_path / "results.jsonl"
    output.write_bytes(b'\xef\xbb\xbf{"id": "a"}\n{"id": "a"}\n{"id": "b"}\nnonsense\n{"id": "c"')
    (tmp_path / "results.jsonl.retry").write_bytes(b"\xef\xbb\xbfd\r\n\r\ne\r\n")
    (tmp_path / "results.jsonl.journal").write_text(
        '{"event": "sent", "id": "f"}\n{"event": "failed", "id": "d"}\n{"event": "sent", "id": "d"}\n'
        '{"event": "absent", "id": "d"}\n{"event": "paused", "id": "g"}\n{"event": "sent", "id": "h"}\n'
        '{"event": "unsent", "id": "h"}\n'
    )
    files = read(output)
    assert files.twice == ["a"]
    assert files.torn == ["results.jsonl"]
    assert len(files.bad) == 1
    places = {row: files.where(row) for row in "abdefghx"}
    assert places == {
        "a": "done",
        "b": "done",
        "d": "retry",
        "e": "retry",
        "f": "open",
        "g": "paused",
        "h": "untouched",
        "x": "untouched",
    }


def test_the_history_that_the_manual_tells_is_what_happens() -> None:
    manual = Path(__file__).parents[2].joinpath("docs", "manual", "design.md").read_text(encoding="utf-8")
    text = manual.partition("--history - <<< '")[2].partition("'\n")[0]
    history = History.from_json(text)
    told = story(history, play(history, stories=True))
    blocks = manual.partition(text)[2].split("```text\n")[1:3]
    timeline, row = (block.partition("```")[0].splitlines() for block in blocks)
    assert [line for line in timeline if line.rstrip() not in [there.rstrip() for there in told.splitlines()]] == []
    of_row = told.partition("row r2:\n")[2]
    events = [line.split()[2] for line in row if line.startswith("journal")]
    assert events == [line.split()[2] for line in of_row.splitlines() if line.startswith("  journal")]
    assert row[-1] in of_row
