"""A journal that is written anew says what it said, and at each moment one whole journal is there."""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from dify_batch.engine.slots import looks_own
from dify_batch.errors import StorageError
from dify_batch.ids import DONE, SEEN
from dify_batch.ledger import compaction
from dify_batch.ledger.compaction import compact, worth_it
from dify_batch.ledger.disk import Disk
from dify_batch.ledger.formats import BOM, Paths, json_line, retry_bytes
from dify_batch.ledger.spent import spent
from dify_batch.ledger.state import Phase, RowState, claimed_runs, read_state
from dify_batch.reports.status import status_report
from tests.support.crashdisk import CrashDisk, Cut
from tests.support.journals import AT, Record, batch, done_line, end, failed, sent, started

GOLDEN = Path(__file__).parent.parent / "journals"
OWN = "dify-batch-5f0e1a2babcdef123456-{}"


ENDS = ("failed", "unsent", "refused", "lost", "absent", "paused", "sent")


class History:
    """A made-up life of an output: rows that are sent, found, lost, repeated, that fail, pause and end well."""

    def __init__(self, folder: Path, seed: int, rows: int = 8, invocations: int = 4) -> None:
        self.paths = Paths.of(folder / "results.jsonl")
        self.chance = random.Random(seed)
        self.journal: list[Record] = []
        self.results: dict[str, bytes] = {}
        self.retry: dict[str, None] = {}
        self.runs = 0
        self.open: set[str] = set()
        for number in range(invocations):
            self.journal.append(batch(f"data{number % 2}.csv") | {"batch": f"b{number}", "server": "dify.example.com"})
            for _ in range(rows * 2):
                self.live(f"row-{self.chance.randrange(rows)}" if self.chance.random() < 0.8 else 'a "row"')
                if self.chance.random() < 0.3:
                    self.journal.append({"event": "retry_file", "count": len(self.retry), "at": AT})
            if self.chance.random() < 0.7:
                self.journal.append(end(rows=rows, untouched=number))
        if self.results and self.chance.random() < 0.3:  # a person wants it run again
            self.retry[self.chance.choice(list(self.results))] = None
        self.write()

    def tell(self, event: str, row: str, **facts: Any) -> None:
        self.journal.append({"event": event, "id": row, **facts, "at": AT})

    def live(self, row: str) -> None:
        """One attempt of a row."""
        chance = self.chance
        if row in self.results:
            if chance.random() < 0.9:
                return
            del self.results[row]
            self.tell("superseded", row, posts=1)
        user = "crm" if chance.random() < 0.1 else OWN.format(chance.randrange(3))
        mode = chance.choice(("streaming", "blocking"))
        self.journal.append(sent(row) | {"user": user, "mode": mode})
        self.retry.pop(row, None)
        what = chance.choice(
            ("done", "done", "done", "failed", "unsent", "refused", "lost", "absent", "paused", "sent")
        )
        if what in ("done", "failed", "paused"):
            self.runs += 1
            run = f"run-{self.runs}"
            self.journal.append(started(row, run) | {"delay": self.runs / 10})
            if what == "done":
                self.results[row] = done_line(row)
                if chance.random() < 0.9:  # else it was killed before
                    self.tell("done", row, run=run, status="success")
            elif what == "paused":
                self.tell("paused", row, run=run, task="t", forms=[{"form_token": "f"}])
            else:
                self.tell("spent", row, run=run, total_tokens=self.runs, total_price="0.5", currency="USD")
                self.tell("kept", row, outputs="half")
                self.fail(row, "failed", run)
        elif what == "lost":
            self.tell("lost", row, reason="cut")
            if chance.random() < 0.5:
                self.fail(row, "unknown")
        elif what != "sent":
            self.tell(what, row, reason="no")

    def fail(self, row: str, kind: str, run: str | None = None) -> None:
        self.journal.append(failed(row, f"no {self.runs}", kind=kind) | ({"run": run} if run else {}))
        self.retry[row] = None

    def write(self) -> None:
        self.paths.journal.write_bytes(b"".join(json_line(record, compact=True) for record in self.journal))
        self.paths.results.write_bytes(BOM + b"".join(self.results.values()))
        if self.retry:
            self.paths.retry.write_bytes(retry_bytes(self.retry))


def says(paths: Paths) -> dict[str, Any]:
    """All that the next invocation, and whoever looks, makes of the files."""
    state = read_state(paths)
    open_users = {row.user for row in state.rows.values() if row.phase is Phase.SENT or row.kind == "unknown"}
    past = claimed_runs(paths, lambda user: user in open_users or not looks_own(user))
    return {
        "rows": {row_id: repr(row) for row_id, row in state.rows.items()},
        "retry": (list(state.retry), sorted(state.asked), state.retry_stale),
        "before": (state.before, state.sources, state.batches, state.last_batch),
        "missing": state.missing_results,
        "runs": past.runs,
        "delays": past.delays,
        "outlived": past.outlived,
        "spent": vars_of(spent(paths)),
        "status": status_report(paths.results, now=0.0).as_dict(),
    }


def vars_of(value: object) -> str:
    return str({name: getattr(value, name) for name in dir(value) if name in ("tokens", "prices", "runs")})


def run_of_each(paths: Paths) -> dict[str, str | None]:
    """Row -> the run that would be fetched if somebody cut all results off."""
    cut = paths.results.read_bytes()
    paths.results.write_bytes(BOM)
    rows: dict[str, RowState] = read_state(paths).rows
    paths.results.write_bytes(cut)
    done = {json.loads(line)["id"] for line in cut.removeprefix(BOM).splitlines() if line.endswith(b"}")}
    return {row_id: row.run_id for row_id, row in rows.items() if row_id in done}


@pytest.mark.parametrize("seed", range(200))
def test_it_says_what_it_said(tmp_path: Path, seed: int) -> None:
    paths = History(tmp_path, seed).paths
    before, runs, size = says(paths), run_of_each(paths), paths.journal.stat().st_size
    state = read_state(paths)
    compact(paths, state, Disk(), own=looks_own)
    assert says(paths) == before
    assert run_of_each(paths) == runs, "a row whose result is cut off would be sent again"
    assert paths.journal.stat().st_size <= size
    assert not state.index.count(SEEN)


@pytest.mark.parametrize("seed", range(30))
def test_again_and_again_changes_nothing_more(tmp_path: Path, seed: int) -> None:
    paths = History(tmp_path, seed).paths
    compact(paths, read_state(paths), Disk(), own=looks_own)
    once = paths.journal.read_bytes()
    compact(paths, read_state(paths), Disk(), own=looks_own)
    assert paths.journal.read_bytes() == once


@pytest.mark.parametrize(
    "release", sorted(path.name for path in GOLDEN.iterdir() if path.is_dir() and path.name[0] != "_")
)
def test_old_journals_keep_their_meaning(tmp_path: Path, release: str) -> None:
    shutil.copytree(GOLDEN / release, tmp_path / "there")
    paths = Paths.of(tmp_path / "there" / "results.jsonl")
    before, runs = says(paths), run_of_each(paths)
    compact(paths, read_state(paths), Disk(), own=looks_own)
    assert says(paths) == before
    assert run_of_each(paths) == runs


def finished(folder: Path, rows: int = 300, user: str = OWN) -> Paths:
    """A batch that is done."""
    paths = Paths.of(folder / "results.jsonl")
    records: list[Record] = [batch()]
    for number in range(rows):
        row = f"row-{number}"
        records += [sent(row) | {"user": user.format(number % 5)}, started(row, f"run-{number}")]
        records += [{"event": "done", "id": row, "run": f"run-{number}", "status": "success", "at": AT}]
    paths.journal.write_bytes(b"".join(json_line(one, compact=True) for one in [*records, end()]))
    paths.results.write_bytes(BOM + b"".join(done_line(f"row-{number}") for number in range(rows)))
    return paths


def events(paths: Paths) -> dict[str, int]:
    found: dict[str, int] = {}
    for line in paths.journal.read_bytes().splitlines():
        event = json.loads(line)["event"]
        found[event] = found.get(event, 0) + 1
    return found


def test_of_a_row_that_is_done_one_line_stays_but_for_the_last_that_started(tmp_path: Path) -> None:
    paths = finished(tmp_path)
    compact(paths, read_state(paths), Disk(), own=looks_own)
    assert events(paths) == {"batch": 1, "sent": 200, "started": 200, "done": 300, "end": 1}
    if os.name == "posix":
        assert stat.S_IMODE(paths.journal.stat().st_mode) == 0o600


def test_the_user_of_a_request_that_is_open_keeps_its_runs(tmp_path: Path) -> None:
    paths = finished(tmp_path)
    with paths.journal.open("ab") as journal:
        journal.write(json_line(sent("open") | {"user": OWN.format(2)}, compact=True))
    compact(paths, read_state(paths), Disk(), own=looks_own)
    users = [json.loads(line).get("user") for line in paths.journal.read_bytes().splitlines()]
    assert users.count(OWN.format(2)) == 61
    assert users.count(OWN.format(1)) == 40, "those of the last 200 alone"


@pytest.mark.parametrize("user", ["crm-{}", "somebody"])
def test_a_user_of_ones_own_may_be_shared_by_any_row(tmp_path: Path, user: str) -> None:
    paths = finished(tmp_path, user=user)
    compact(paths, read_state(paths), Disk(), own=looks_own)
    assert events(paths)["sent"] == 300


@pytest.mark.parametrize("told_by", ["the request", "the invocation"])
def test_a_user_that_looks_like_a_slot_s_is_shared_where_the_journal_says_so(tmp_path: Path, told_by: str) -> None:
    paths = finished(tmp_path)
    records = [json.loads(line) for line in paths.journal.read_bytes().splitlines()]
    for record in records:
        if told_by == "the request" and record["event"] == "sent":
            record["shared"] = True
        elif told_by == "the invocation" and record["event"] == "batch":
            record["again"] = ["--user", OWN]
    paths.journal.write_bytes(b"".join(json_line(one, compact=True) for one in records))
    compact(paths, read_state(paths), Disk(), own=looks_own)
    assert events(paths)["sent"] == 300


def test_a_message_of_a_chat_needs_its_user_and_its_conversation(tmp_path: Path) -> None:
    paths = finished(tmp_path)
    journal = paths.journal.read_bytes()
    paths.journal.write_bytes(json_line(batch() | {"app_mode": "advanced-chat"}, compact=True) + journal)
    compact(paths, read_state(paths), Disk(), own=looks_own)
    assert (events(paths)["sent"], events(paths)["started"]) == (300, 300)


def test_heads_of_the_last_invocations_stay_and_the_first_of_each_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "_HEADS", 3)
    paths = finished(tmp_path)
    records = [one for n in range(20) for one in (batch(f"{n % 2}.csv") | {"batch": f"b{n}"}, end(rows=n))]
    paths.journal.write_bytes(paths.journal.read_bytes() + b"".join(json_line(one, compact=True) for one in records))
    before = read_state(paths)
    compact(paths, before, Disk(), own=looks_own)
    after = read_state(paths)
    assert (after.before, after.sources, after.last_batch) == (before.before, before.sources, before.last_batch)
    assert after.batches == {"b", "b0", "b1", "b17", "b18", "b19"}
    assert status_report(paths.results).batch == status_report(paths.results).batch
    assert events(paths)["batch"] == events(paths)["end"] == 6


def test_a_head_that_tells_of_the_users_after_it_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "_HEADS", 1)
    paths = Paths.of(tmp_path / "results.jsonl")
    records: list[Record] = []
    for number, again in enumerate(([], [], ["--user", "crm"], ["--user", "crm"], [], [], [])):
        records += [batch() | {"batch": f"b{number}", "again": again}, sent(f"row-{number}")]
    paths.journal.write_bytes(b"".join(json_line(one, compact=True) for one in records))
    paths.results.write_bytes(BOM)
    before = read_state(paths)
    assert {row.shared for row in before.rows.values()} == {True, False}
    compact(paths, before, Disk(), own=looks_own)
    after = read_state(paths)
    assert {row_id: row.shared for row_id, row in after.rows.items()} == {
        row_id: row.shared for row_id, row in before.rows.items()
    }
    assert after.batches == {"b0", "b2", "b4", "b6"}


# ---------------------------------------------------------------- when


def test_when_it_is_worth_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = finished(tmp_path)
    assert not worth_it(read_state(paths)), "a small one is read in a moment"
    monkeypatch.setattr(compaction, "_SMALL", 1000)
    assert worth_it(read_state(paths)), "it is done"
    with paths.journal.open("ab") as journal:
        journal.write(json_line(sent("open"), compact=True))
    assert not worth_it(read_state(paths)), "something may be under way, and it has not grown to ten times what it says"
    paths.journal.write_bytes(
        paths.journal.read_bytes()
        + b"".join(json_line(sent("row-1") | {"attempt": n}, compact=True) for n in range(3000))
    )
    assert worth_it(read_state(paths))


def test_a_row_that_waits_in_retry_is_at_rest_unless_its_fate_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "_SMALL", 1000)
    paths = finished(tmp_path)
    whole = paths.journal.read_bytes()
    for kind, worth in (("failed", True), ("unknown", False)):
        paths.journal.write_bytes(whole + json_line(failed("x", "no", kind=kind), compact=True))
        assert worth_it(read_state(paths)) is worth


# ---------------------------------------------------------------- crashes


@pytest.mark.parametrize("when", ["before", "middle", "after"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 1.0])
def test_the_power_goes_at_every_operation(tmp_path: Path, when: str, kept: float) -> None:
    old = finished(tmp_path).journal.read_bytes()
    compact(
        Paths.of(tmp_path / "results.jsonl"), read_state(Paths.of(tmp_path / "results.jsonl")), Disk(), own=looks_own
    )
    new = (tmp_path / "results.jsonl.journal").read_bytes()
    at, found = 0, set()
    while True:
        at += 1
        folder = tmp_path / str(at)
        folder.mkdir()
        paths = finished(folder)
        disk = CrashDisk(folder, Cut(at, when))  # type: ignore[arg-type]
        try:
            compact(paths, read_state(paths), disk, own=looks_own)
        except OSError:
            assert disk.hit
        if not disk.hit:
            break
        disk.power_cut(kept)
        found.add(paths.journal.read_bytes())
    assert found <= {old, new}, "a journal that is neither"
    assert old in found
    assert at > 4


def test_a_journal_that_ends_in_somebody_s_line_is_left_alone(tmp_path: Path) -> None:
    paths = finished(tmp_path)
    paths.journal.write_bytes(paths.journal.read_bytes() + b"my own notes")
    before = paths.journal.read_bytes()
    with pytest.raises(StorageError, match="no record of a batch"):
        compact(paths, read_state(paths), Disk(), own=looks_own)
    assert paths.journal.read_bytes() == before


def test_lines_that_nobody_knows_stay(tmp_path: Path) -> None:
    paths = finished(tmp_path)
    odd = [b"{}", b'{"event":"news","id":"row-1"}', b'{"event": "sent", "id": "row-2"}', b"\xff\xfe", b"[1]"]
    paths.journal.write_bytes(paths.journal.read_bytes() + b"".join(line + b"\n" for line in odd))
    compact(paths, read_state(paths), Disk(), own=looks_own)
    there = paths.journal.read_bytes().splitlines()
    assert [line in there for line in odd] == [True, False, True, True, True]
    assert read_state(paths).index.has("row-2", DONE)
