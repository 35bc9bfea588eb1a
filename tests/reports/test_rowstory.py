"""One row's story, from the journal alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dify_batch.errors import UsageError
from dify_batch.reports.rowstory import row_story

JOURNAL = Path(__file__).parent.parent / "journals" / "0.1.0"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    for path in JOURNAL.iterdir():
        shutil.copy(path, tmp_path / path.name)
    return tmp_path / "results.jsonl"


@pytest.mark.parametrize(
    ("row_id", "words"),
    [
        ("r1", ["sent: attempt 1", "started: run", "it stands so: its result is in the results"]),
        ("r2", ["failed: kind failed, code run_failed", "it waits in results.jsonl.retry"]),
        ("r4", ["lost: reason", "absent: reason", "sent: attempt 2"]),
        ("r9", ["started: run", "the next invocation collects it"]),
    ],
)
def test_what_happened_and_how_it_stands(output: Path, row_id: str, words: list[str]) -> None:
    story = row_story(output, row_id)
    for word in words:
        assert word in story.text()
    assert story.as_dict()["events"][0]["id"] == row_id


def test_a_row_that_it_does_not_know(output: Path) -> None:
    with pytest.raises(UsageError, match="knows no row") as error:
        row_story(output, "r13")
    assert "did you mean r" in str(error.value.hint)
