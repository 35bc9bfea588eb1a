"""The names of parts, and that an output has one number of them for good."""

from __future__ import annotations

from pathlib import Path

import pytest

from dify_batch.errors import UsageError
from dify_batch.ids import Shard, shard_of
from dify_batch.ledger.shards import (
    output_with,
    outputs_of,
    part_of,
    parts_of,
    require_same_parts,
    shard_path,
    whole_set,
)


@pytest.mark.parametrize("name", ["results.jsonl", "results", "a.b.jsonl", "10of3.x"])
def test_a_name_and_back(name: str) -> None:
    path = shard_path(Path("/x") / name, Shard(16, 3))
    assert part_of(path) == (Path("/x") / name, Shard(16, 3))


@pytest.mark.parametrize("name", ["results.jsonl", "results.0of4.jsonl", "results.5of4.jsonl", "x.1of4.20250101.jsonl"])
def test_names_of_no_part(name: str) -> None:
    assert part_of(Path(name)) == (Path(name), None)


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).write_bytes(b"")
    return folder / "results.jsonl"


def test_the_parts_that_are_there(tmp_path: Path) -> None:
    output = make(
        tmp_path,
        *("results.2of4.jsonl", "results.1of4.jsonl.journal", "results.3of4.jsonl.lock", "results.4of4.csv"),
        *("other.3of4.jsonl", "results.1of4.20250101T000000Z.jsonl"),
    )
    assert parts_of(output) == [Shard(4, 1), Shard(4, 2)]
    assert outputs_of(output) == [tmp_path / "results.1of4.jsonl", tmp_path / "results.2of4.jsonl"]
    assert output_with(output, "r1") == tmp_path / f"results.{shard_of('r1', 4)}of4.jsonl"
    with pytest.raises(UsageError, match="2 parts are missing of 4: 3/4, 4/4"):
        whole_set(output)


def test_an_output_as_a_whole_goes_before_parts_of_its_name(tmp_path: Path) -> None:
    output = make(tmp_path, "results.jsonl", "results.1of4.jsonl")
    assert outputs_of(output) == [output]


def test_two_numbers_of_parts_are_told(tmp_path: Path) -> None:
    output = make(tmp_path, "results.1of4.jsonl", "results.1of3.jsonl")
    for ask in (outputs_of, whole_set):
        with pytest.raises(UsageError, match="in 3 parts and in 4"):
            ask(output)


def test_another_number_or_the_whole_is_refused(tmp_path: Path) -> None:
    output = make(tmp_path, "results.1of4.jsonl.journal")
    require_same_parts(output, Shard(4, 2))
    with pytest.raises(UsageError, match="begun in 4 parts") as caught:
        require_same_parts(output, Shard(3, 1))
    assert caught.value.exit_status == 2
    with pytest.raises(UsageError, match="as a whole its rows would run again"):
        require_same_parts(output, None)
    with pytest.raises(UsageError, match="is the file of part 1/4"):
        require_same_parts(tmp_path / "results.1of4.jsonl", None)


def test_parts_of_an_output_that_was_begun_as_a_whole_are_refused(tmp_path: Path) -> None:
    output = make(tmp_path, "results.jsonl.journal")
    require_same_parts(output, None)
    with pytest.raises(UsageError, match="begun as a whole"):
        require_same_parts(output, Shard(4, 2))


def test_a_name_that_only_looks_like_a_part_s_may_be_used(tmp_path: Path) -> None:
    require_same_parts(tmp_path / "report.3of4.jsonl", None)
