"""Old lines go to `.superseded`, and a crash at any point loses no result and forgets no row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dify_batch.errors import StorageError
from dify_batch.ids import DONE
from dify_batch.ledger.formats import BOM, Paths, json_line
from dify_batch.ledger.state import Phase, read_state
from dify_batch.ledger.supersede import supersede
from dify_batch.seams import REAL
from tests.support.crashdisk import CrashDisk, Cut
from tests.support.journals import done_line, sent, started

ROWS = "abcd"


def make(folder: Path) -> Paths:
    paths = Paths.of(folder / "results.jsonl")
    records = [record for row in ROWS for record in (sent(row), started(row, f"run-{row}"))]
    records += [{"event": "done", "id": row, "run": f"run-{row}"} for row in ROWS]
    paths.journal.write_bytes(b"".join(json_line(record, compact=True) for record in records))
    paths.results.write_bytes(BOM + b"".join(map(done_line, ROWS)) + b'{"id": "e", "sta')
    return paths


def ids(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8-sig").split("\n") if path.exists() else []
    return [json.loads(line)["id"] for line in lines if line.endswith("}")]


def test_the_lines_go_and_the_rest_stays_as_it_was(tmp_path: Path) -> None:
    paths = make(tmp_path)
    assert supersede(paths, {"a", "c", "zz"}, CrashDisk(tmp_path), REAL.clock) == {"a": 1, "c": 1}
    assert paths.results.read_bytes() == BOM + done_line("b") + done_line("d") + b'{"id": "e", "sta'
    assert paths.superseded.read_bytes() == done_line("a") + done_line("c")
    state = read_state(paths)
    assert {row: state.rows[row].phase for row in "ac"} == {"a": Phase.FREE, "c": Phase.FREE}
    assert (state.rows["a"].posts, state.missing_results, state.done) == (1, 0, 2)


def test_nothing_to_do_touches_nothing(tmp_path: Path) -> None:
    paths = make(tmp_path)
    before = paths.results.read_bytes()
    assert supersede(paths, set(), CrashDisk(tmp_path), REAL.clock) == {}
    assert paths.results.read_bytes() == before
    assert not paths.superseded.exists()


@pytest.mark.parametrize("when", ["before", "middle", "after"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 1.0])
def test_the_power_goes_at_every_operation(tmp_path: Path, when: str, kept: float) -> None:
    at = 0
    while True:
        at += 1
        folder = tmp_path / str(at)
        folder.mkdir()
        paths = make(folder)
        disk = CrashDisk(folder, Cut(at, when))  # type: ignore[arg-type]
        try:
            supersede(paths, {"a", "c"}, disk, REAL.clock)
        except StorageError:
            assert disk.hit
        if not disk.hit:
            break
        disk.power_cut(kept)
        state = read_state(paths)
        for row in "ac":
            done = state.index.has(row, DONE)
            assert done or row in ids(paths.superseded), "the old result is nowhere"
            assert done or state.rows[row].phase is Phase.FREE, "the row would be fetched, not run"
        assert all(state.index.has(row, DONE) for row in "bd")
        supersede(paths, {row for row in "ac" if state.index.has(row, DONE)}, CrashDisk(folder), REAL.clock)
        assert ids(paths.results) == ["b", "d"]
        assert set(ids(paths.superseded)) == {"a", "c"}
    assert at > 10
