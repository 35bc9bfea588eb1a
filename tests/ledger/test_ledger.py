"""What a ledger tells of its rows while it is open, and what it leaves on the disk."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dify_batch.engine.order import Order
from dify_batch.errors import StorageError
from dify_batch.ids import OPEN, RETRY, parse_ids
from dify_batch.ledger.disk import Disk
from dify_batch.ledger.formats import BOM, Paths
from dify_batch.ledger.held import Held
from dify_batch.ledger.state import Phase, claimed_runs, read_state
from dify_batch.ledger.store import Ledger, set_aside
from dify_batch.outcomes import Paused, PausedForm, RunRef, RunResult
from tests.support.crashdisk import CrashDisk, Fault
from tests.support.harness import places, results
from tests.support.story import place_of

REF = RunRef("run-1", "task-1")


def opened(output: Path, disk: Disk | None = None, *, bom: bool = True) -> Ledger:
    paths = Paths.of(output)
    errors: list[StorageError] = []
    return Ledger(paths, read_state(paths), base_url="http://x/v1", on_error=errors.append, disk=disk, bom=bom)


def result(run: str = "run-1", **outputs: Any) -> RunResult:
    return RunResult(RunRef(run, "task-1"), "succeeded", outputs, None, 1.0, 5, 2, 1_700_000_000)


def journal(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Paths.of(output).journal.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


async def test_one_row_from_its_intent_to_its_result(output: Path) -> None:
    ledger = opened(output)
    ledger.begin("b1", input="data.csv")
    assert await ledger.sent("a", user="u", mode="streaming") == 1
    ledger.started("a", REF)
    ledger.succeeded("a", {"id": "a"}, result(answer="x"))
    await ledger.close()
    assert output.read_bytes().startswith(BOM)
    assert [line["id"] for line in results(output)] == ["a"]
    assert [record["event"] for record in journal(output)] == ["batch", "sent", "started", "done"]
    assert journal(output)[0]["pid"] == os.getpid()
    assert not Paths.of(output).retry.exists()


async def test_the_intent_is_on_the_disk_when_sent_returns(output: Path) -> None:
    ledger = opened(output)
    await ledger.sent("a", user="u7", mode="blocking")
    record = journal(output)[-1]
    assert (record["event"], record["id"], record["attempt"]) == ("sent", "a", 1)
    assert (record["user"], record["mode"]) == ("u7", "blocking")
    await ledger.close()


async def test_without_a_bom(output: Path) -> None:
    ledger = opened(output, bom=False)
    ledger.succeeded("a", {}, result())
    await ledger.close()
    assert output.read_bytes().startswith(b"{")


@pytest.mark.parametrize("end", ["succeeded", "held"])
async def test_the_run_of_a_blocking_answer_is_claimed_before_the_next_intent(output: Path, end: str) -> None:
    """Else, after a crash, the look-up of b could take the run of a, which had the same `user`."""
    ledger = opened(output)
    await ledger.sent("a", user="u", mode="blocking")
    getattr(ledger, end)("a", {}, result())
    await ledger.sent("b", user="u", mode="blocking")
    claimed = claimed_runs(ledger.paths, frozenset({"u"}).__contains__).runs
    await ledger.close()
    assert claimed == {"u": {"run-1"}}


async def test_retry_count_goes_on_over_invocations(output: Path) -> None:
    for _ in range(2):
        ledger = opened(output)
        await ledger.sent("a", user="u", mode="streaming")
        ledger.unsent("a", "refused connection")
        await ledger.sent("a", user="u", mode="streaming")
        ledger.failed("a", kind="failed", code="run_failed", message="no")
        await ledger.close()
    ledger = opened(output)
    assert await ledger.sent("a", user="u", mode="streaming") == 3
    ledger.succeeded("a", {}, result())
    await ledger.close()
    assert results(output)[0]["retry_count"] == 2


@pytest.mark.parametrize("known", [None, "run-1"])
async def test_a_failed_row_whose_run_is_found_is_in_one_place(output: Path, known: str | None) -> None:
    """--retry of a row whose outcome was unknown: the look-up finds its run, so it waits in `.retry` no longer."""
    ledger = opened(output)
    await ledger.sent("a", user="u", mode="streaming")
    ledger.failed("a", kind="unknown", code="lost", message="?", run_id=known)
    assert place_of(ledger, "a") == "retry"
    ledger.started("a", REF, found=True)
    assert place_of(ledger, "a") == "running"
    assert ledger.index.flags("a") == OPEN
    await ledger.close()
    assert not ledger.paths.retry.exists()
    assert places(output).running == {"a"}


async def test_a_replay_that_is_refused_is_the_failed_row_again(output: Path) -> None:
    ledger = opened(output)
    ledger.failed("a", kind="failed", code="run_failed", message="no")
    await ledger.flush()
    await ledger.sent("a", user="u", mode="streaming")
    assert ledger.index.flags("a") == OPEN
    ledger.refused("a", "too many")
    assert ledger.index.flags("a") == RETRY
    await ledger.close()
    assert places(output).retry == {"a"}
    assert ledger.paths.retry.read_bytes() == BOM + b"a\n"


async def test_ids_that_a_person_adds_meanwhile_are_kept(output: Path) -> None:
    ledger = opened(output)
    ledger.failed("a", kind="failed", code="x", message="no")
    ledger.succeeded("b", {}, result())
    await ledger.flush()
    ledger.paths.retry.write_bytes(b"mine\r\na\r\nb\r\n")
    ledger.failed("c", kind="failed", code="x", message="no")
    await ledger.close()
    assert parse_ids(ledger.paths.retry.read_bytes()) == ["a", "c", "mine", "b"]


async def test_an_old_copy_of_retry_that_a_person_saves_late_adds_nothing(output: Path) -> None:
    """The editor was opened while the row still waited; meanwhile it runs again."""
    ledger = opened(output)
    ledger.failed("a", kind="failed", code="x", message="no")
    await ledger.flush()
    old = ledger.paths.retry.read_bytes()
    await ledger.sent("a", user="u", mode="streaming")
    ledger.succeeded("a", {}, result())
    await ledger.flush()
    ledger.paths.retry.write_bytes(old + b"mine\n")
    ledger.failed("c", kind="failed", code="x", message="no")
    await ledger.close()
    assert parse_ids(ledger.paths.retry.read_bytes()) == ["c", "mine"]


async def test_an_edit_between_reading_and_opening_is_kept(output: Path) -> None:
    """Checking a long input takes its time; a person may write meanwhile."""
    paths = Paths.of(output)
    paths.retry.write_bytes(b"first\n")
    state = read_state(paths)
    paths.retry.write_bytes(b"first\nsecond\n")
    ledger = Ledger(paths, state, base_url="http://x/v1", on_error=lambda error: None)
    ledger.failed("a", kind="failed", code="x", message="no")
    await ledger.close()
    assert parse_ids(paths.retry.read_bytes()) == ["first", "a", "second"]


async def test_a_failure_counts_as_written_only_if_the_retry_file_has_it(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is flushed and not in `.retry` counts as taken out by hand, and is not replayed."""
    monkeypatch.setattr("dify_batch.ledger.companions.RETRY_FILE_EVERY", 0.0)
    ledger = opened(output)
    for number in range(5):
        ledger.failed(f"a{number}", kind="failed", code="x", message="no")
        monkeypatch.setattr(
            "dify_batch.ledger.companions.RETRY_FILE_EVERY", 1e9
        )  # only the first of them asks for the file
    await ledger._writer.durable()
    await ledger._writer.flush()
    state = read_state(ledger.paths)
    written = parse_ids(ledger.paths.retry.read_bytes())
    assert [row_id for row_id, row in state.rows.items() if row.flushed] == written
    await ledger.close()


async def test_paused_rows_are_told_with_their_forms_and_go_when_they_end(output: Path) -> None:
    form = PausedForm("tok", "node", "text", ("yes",), (), 1_700_000_000)
    ledger = opened(output)
    for row_id in "abc":
        await ledger.sent(row_id, user="u", mode="streaming")
        ledger.paused(row_id, Paused(RunRef(f"run-{row_id}", "t"), (form,)))
    await ledger.flush()
    lines = results(ledger.paths.paused)
    assert [line["id"] for line in lines] == ["a", "b", "c"]
    assert lines[0]["form_token"] == "tok"
    ledger.succeeded("a", {}, result("run-a"))
    held = ledger.held("b", {}, result("run-b"))
    await ledger.flush()
    assert [line["id"] for line in results(ledger.paths.paused)] == ["c"]
    ledger.release("b", held)
    ledger.failed("c", kind="failed", code="x", message="no", run_id="run-c")
    await ledger.close()
    assert not ledger.paths.paused.exists()
    assert places(output).done == {"a", "b"}


async def test_a_paused_row_whose_result_is_held_waits_for_nobody(output: Path) -> None:
    ledger = opened(output)
    await ledger.sent("a", user="u", mode="streaming")
    ledger.paused("a", Paused(REF))
    await ledger.flush()
    assert place_of(ledger, "a") == "paused"
    ledger.held("a", {}, result())
    assert place_of(ledger, "a") == "running"
    await ledger.close()
    assert not ledger.paths.paused.exists()
    assert places(output).running == {"a"}


async def test_a_held_result_is_written_as_it_was_by_the_next_invocation(output: Path) -> None:
    ledger = opened(output)
    await ledger.sent("a", user="u", mode="streaming")
    first = ledger.held("a", {"id": "a", "q": "é\ud800"}, result(answer={"x": [1, 2.5, None]}))
    await ledger.close()
    state = read_state(Paths.of(output))
    row = state.rows["a"]
    assert row.phase is Phase.HELD
    assert row.line is not None
    again = Held.of_journal(row.line)
    assert again == Held(first.line, "run-1", "success")
    ledger = opened(output)
    ledger.release("a", again)
    await ledger.close()
    assert output.read_bytes() == BOM + first.line


async def test_an_intent_that_cannot_be_written_is_an_error(tmp_path: Path, output: Path) -> None:
    disk = CrashDisk(tmp_path)
    ledger = opened(output, disk)
    disk._trouble = Fault(disk.operations + 1, errno.ENOSPC, lasting=True)
    with pytest.raises(StorageError, match="journal cannot be written: No space left"):
        await ledger.sent("a", user="u", mode="streaming")
    with pytest.raises(StorageError):
        await ledger.close()


@pytest.mark.parametrize("at", range(1, 9))
def test_a_ledger_that_cannot_be_opened_leaves_no_file_open(tmp_path: Path, at: int) -> None:
    (tmp_path / "results.jsonl").write_bytes(b'{"id": "a"}')
    (tmp_path / "results.jsonl.journal").write_bytes(b'{"event": "sent", "id": "a"}')
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with pytest.raises(StorageError):
        opened(tmp_path / "results.jsonl", CrashDisk(tmp_path, Fault(at, errno.EIO)))
    assert before == 0 or len(os.listdir("/proc/self/fd")) == before


# ------------------------------------------------------------ --overwrite


async def test_overwrite_keeps_the_old_files_as_one_output(output: Path) -> None:
    for _ in range(2):
        ledger = opened(output)
        ledger.succeeded("a", {}, result())
        ledger.failed("b", kind="failed", code="x", message="no")
        await ledger.close()
        names = set_aside(ledger.paths)
        assert len(names) == 3
        assert not any(path.exists() for path in ledger.paths.data)
        kept = places(Path(names[0]))
        assert kept.done == {"a"}
        assert kept.retry == {"b"}
    assert set_aside(Paths.of(output)) == []


def test_overwrite_that_fails_says_so(tmp_path: Path, output: Path) -> None:
    output.write_bytes(b"")
    with pytest.raises(StorageError, match="Read-only") as caught:
        set_aside(Paths.of(output), CrashDisk(tmp_path, Fault(1, errno.EROFS)))
    assert "writable" in str(caught.value.hint)


# ------------------------------------------------------------ --keep-order


@given(st.permutations(range(1, 9)), st.sets(st.integers(1, 8)), st.integers(0, 8))
def test_results_leave_in_order_and_as_soon_as_they_may(finish: list[int], skipped: set[int], late: int) -> None:
    order = Order()
    for number in range(1, 9):
        order.open(number)
        order.read_up_to(number)
    left: list[int] = []
    settled: set[int] = set()
    for number in finish:
        if number in skipped:
            order.skip(number)
        else:
            order.hold(number, str(number), Held(b"", "", ""))
        settled.add(number)
        left += [int(row_id) for row_id, _ in order.due()]
        first_open = min(set(range(1, 10)) - settled)
        assert left == [n for n in range(1, first_open) if n not in skipped]
    assert len(order) == 0


@settings(max_examples=30, deadline=None)
@given(st.permutations("abcdef"))
def test_rows_that_end_in_any_order_are_each_there_once(tmp_path_factory: pytest.TempPathFactory, ends: str) -> None:
    output = tmp_path_factory.mktemp("order") / "results.jsonl"

    async def batch() -> None:
        ledger = opened(output)
        await asyncio.gather(*(ledger.sent(row_id, user=row_id, mode="streaming") for row_id in "abcdef"))
        for number, row_id in enumerate(ends):
            if number % 3 == 2:
                ledger.failed(row_id, kind="failed", code="x", message="no")
            else:
                ledger.succeeded(row_id, {"id": row_id}, result(f"run-{row_id}"))
        await ledger.close()

    asyncio.run(batch())
    found = places(output)
    assert found.retry == {ends[2], ends[5]}
    assert found.done == set("abcdef") - found.retry
