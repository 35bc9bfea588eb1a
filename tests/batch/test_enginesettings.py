"""What the engine is told: where the search of --concurrency auto begins."""

from __future__ import annotations

import pytest

from dify_batch.batch.enginesettings import first_limit
from dify_batch.batch.share import Share
from dify_batch.seams import REAL


@pytest.mark.parametrize(
    ("mode", "before", "begins"),
    [
        ("auto", None, 5),
        ("auto", (40, "streaming"), 40),
        ("auto", (40, "blocking"), 9),  # auto begins with streaming, of which nothing is known
        ("auto", (3, "blocking"), 3),
        ("blocking", (40, "blocking"), 40),
        ("blocking", (40, "streaming"), 9),
        ("streaming", (500, "streaming"), 100),  # as many as this process has open files for
        ("streaming", (1, "streaming"), 1),
    ],
)
def test_auto_begins_where_the_last_invocation_stood_in_the_same_mode(
    mode: str, before: tuple[int, str] | None, begins: int
) -> None:
    limit = first_limit(Share(concurrency="auto"), 100, REAL.clock, mode=mode, before=before)
    assert limit.current == begins


def test_a_fixed_number_begins_with_itself() -> None:
    limit = first_limit(Share(concurrency=7), 100, REAL.clock, mode="auto", before=(40, "streaming"))
    assert limit.current == 7
