"""When the silence of the server's log proves that a POST made no run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dify_batch.engine.absence import Evidence, lacking, least_age, settle_time

PROVED = Evidence(now=1000.0, age=200.0, unfinished=0, alive=True, answering_since=900.0, reaching=True, last=True)
DAY = 86_400.0


@pytest.mark.parametrize(
    ("evidence", "both_since", "words"),
    [
        (PROVED, 950.0, None),
        (replace(PROVED, unfinished=1), 950.0, "1 run that began"),
        (replace(PROVED, unfinished=3), 950.0, "3 runs that began"),
        (replace(PROVED, unfinished=None), 950.0, "does not tell"),
        (replace(PROVED, alive=False), 950.0, "no run has started or ended"),
        (PROVED, 995.0, "settle time"),
        (PROVED, None, "settle time"),
        (replace(PROVED, answering_since=995.0), 950.0, "settle time"),
        (replace(PROVED, age=119.0), 950.0, "less than 120 s ago"),
        (replace(PROVED, age=2 * DAY, reaching=False), 950.0, "does not reach back"),
        (replace(PROVED, age=DAY / 2, reaching=False), 950.0, None),
        (replace(PROVED, last=False), 950.0, "other rows"),
        (replace(PROVED, died=True), 950.0, "a worker seems to have died"),
        (replace(PROVED, died=True, age=3901.0), 950.0, None),
    ],
)
def test_each_part_of_the_proof_is_needed(evidence: Evidence, both_since: float | None, words: str | None) -> None:
    missing = lacking(evidence, both_since, settle=10.0, age=120.0)
    assert missing is None if words is None else words in str(missing)


def test_the_settle_time_is_three_times_the_longest_delay_and_at_least_what_was_asked() -> None:
    assert settle_time(10.0, 2.0) == 10.0
    assert settle_time(10.0, 25.0) == 75.0


def test_a_shorter_settle_lowers_the_least_age_and_a_longer_one_does_not_raise_it() -> None:
    assert [least_age(settle) for settle in (10.0, 60.0, 0.5)] == [120.0, 120.0, 6.0]
