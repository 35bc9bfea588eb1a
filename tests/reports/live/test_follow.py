"""The files of a batch under way, read as they grow: at each moment as a reading from the start would tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dify_batch.ledger.formats import BOM, Paths, json_line
from dify_batch.reports.html.collect import collect
from dify_batch.reports.html.pack import unpacked
from dify_batch.reports.live.follow import Follow
from dify_batch.reports.live.tail import Replaced, Tail
from tests.support.journals import batch, end, failed, sent, started
from tests.support.result_tables import result


class Growing:
    """An output that a batch writes to."""

    def __init__(self, folder: Path) -> None:
        self.paths = Paths.of(folder / "results.jsonl")
        self.paths.results.write_bytes(BOM)
        self.journal(batch())
        self.follow = Follow([self.paths])

    def journal(self, *records: dict[str, Any]) -> None:
        with self.paths.journal.open("ab") as file:
            file.write(b"".join(json_line(record, compact=True) for record in records))

    def results(self, *records: dict[str, Any]) -> None:
        with self.paths.results.open("ab") as file:
            file.write(b"".join(json_line(record) for record in records))

    def counts(self) -> dict[str, int]:
        return {name: number for name, number in self.follow.collected().counts.items() if number}


@pytest.fixture
def output(tmp_path: Path) -> Growing:
    return Growing(tmp_path)


def test_rows_come_as_they_get_a_result_or_fail(output: Growing) -> None:
    output.journal(sent("a"), started("a", "r"), sent("b"))
    assert output.follow.poll()
    assert output.counts() == {"running": 2}
    assert not output.follow.poll()
    output.results(result("a", {"q": 1}, {"answer": "yes"}, total_price="0.5", currency="USD"))
    output.journal(failed("b", "no"), sent("c"))
    assert output.follow.poll()
    assert output.counts() == {"success": 1, "failed": 1, "running": 1}
    rows = output.follow.rows(0)
    assert rows.columns["id"] == ["b", "a"]
    assert rows.columns["code"] == ["run_failed", ""]
    assert sum(rows.block_rows) == 2
    assert "yes" in "".join(map(unpacked, rows.blocks))
    found = output.follow.collected()
    assert found.going_on
    assert [top.id for top in found.dearest] == ["a"]
    assert [group.count for group in found.groups] == [1]
    output.journal(end(untouched=7))
    output.follow.poll()
    assert (output.follow.collected().going_on, output.follow.collected().untouched) == (False, 7)


def test_a_row_that_failed_and_has_its_result_now_comes_again(output: Growing) -> None:
    output.journal(sent("a"), failed("a", "no"))
    output.follow.poll()
    first = output.follow.rows(0)
    output.journal(sent("a"))
    output.results(result("a", {}, {}))
    output.follow.poll()
    more = output.follow.rows(len(first.columns["id"]))
    assert (more.first, more.columns["id"], more.gone) == (1, ["a"], [0])
    assert output.counts() == {"success": 1}
    assert output.follow.collected().groups == []


def test_only_what_is_new_is_given_again(output: Growing) -> None:
    for number in range(5):
        output.results(result(f"r{number}", {}, {}))
        output.follow.poll()
    assert output.follow.rows(3).columns["id"] == ["r3", "r4"]
    assert output.follow.rows(5).columns["id"] == []
    assert output.follow.rows(99).blocks == []


def test_beyond_the_room_the_figures_go_on(output: Growing) -> None:
    output.follow = Follow([output.paths], max_rows=3)
    output.results(*(result(f"r{number}", {}, {}) for number in range(9)))
    output.journal(sent("f"), failed("f", "no"))
    output.follow.poll()
    found = output.follow.collected()
    assert found.counts["success"] == 9
    assert len(found.columns.id) == 3  # the journal was read first: the failed row and two results
    assert "f" in found.columns.id
    assert found.warnings == ["The table below holds the first 3 rows, and all that failed; the figures are of all."]


def test_a_file_that_was_replaced_is_read_anew(output: Growing) -> None:
    output.results(result("a", {}, {}), result("b", {}, {}))
    output.follow.poll()
    assert output.follow.epoch == 1
    output.paths.results.write_bytes(BOM + json_line(result("c", {}, {})))
    assert output.follow.poll()
    assert (output.follow.epoch, output.counts()) == (2, {"success": 1})
    output.paths.results.unlink()
    assert output.follow.poll()
    assert output.counts() == {}


def test_half_a_line_waits_for_its_other_half(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    tail = Tail(path)
    assert list(tail.lines()) == []
    path.write_bytes(BOM + b"one\ntw")
    assert list(tail.lines()) == [b"one"]
    with path.open("ab") as file:
        file.write(b"o\n" + b"x" * (9 << 20))
    assert list(tail.lines()) == [b"two"]
    assert list(tail.lines()) == []
    with path.open("ab") as file:
        file.write(b"\nend\n")
    assert [len(line) for line in tail.lines()] == [9 << 20, 3]
    path.write_bytes(b"")
    with pytest.raises(Replaced):
        list(tail.lines())


ROWS = st.sampled_from("abc")
DEEDS = st.one_of(
    st.tuples(st.just("sent"), ROWS),
    st.tuples(st.just("failed"), ROWS),
    st.tuples(st.just("unknown"), ROWS),
    st.tuples(st.just("refused"), ROWS),
    st.tuples(st.just("result"), ROWS),
    st.tuples(st.just("poll"), ROWS),
)


@settings(deadline=None, max_examples=60)
@given(deeds=st.lists(DEEDS, max_size=25))
def test_it_says_what_a_reading_from_the_start_would(
    tmp_path_factory: pytest.TempPathFactory, deeds: list[tuple[str, str]]
) -> None:
    output = Growing(tmp_path_factory.mktemp("growing"))
    done: set[str] = set()
    for deed, row_id in deeds:
        if deed == "poll":
            output.follow.poll()
        elif row_id in done:
            continue
        elif deed == "result":
            done.add(row_id)
            output.journal(sent(row_id))
            output.results(result(row_id, {}, {}))
        elif deed == "sent":
            output.journal(sent(row_id), started(row_id, "r"))
        elif deed == "refused":
            output.journal(sent(row_id), {"event": "refused", "id": row_id, "reason": "429"})
        else:
            output.journal(sent(row_id), started(row_id, "r"), failed(row_id, "no", kind=deed))
    output.follow.poll()
    whole = collect([output.paths.results])
    assert output.counts() == {name: number for name, number in whole.counts.items() if number}
    rows = output.follow.rows(0)
    alive = {row_id for place, row_id in enumerate(rows.columns["id"]) if place not in rows.gone}
    ended = ("success", "failed", "unknown")
    assert len(alive) == sum(whole.counts[name] for name in ended)
    json.dumps(rows.columns)
