"""How long a repetition waits."""

from __future__ import annotations

import statistics

import pytest

from dify_batch.backoff import Backoff


def test_the_wait_is_drawn_evenly_up_to_a_bound_that_doubles() -> None:
    backoff = Backoff(initial=1, maximum=60)
    for repetition, bound in ((1, 1), (2, 2), (4, 8), (7, 60), (1000, 60)):
        waits = [backoff.seconds(repetition) for _ in range(400)]
        assert all(0 <= wait <= bound for wait in waits)
        assert statistics.mean(waits) == pytest.approx(bound / 2, rel=0.25)


def test_retry_after_is_honoured_up_to_the_maximum() -> None:
    backoff = Backoff(initial=1, maximum=60)
    assert [backoff.seconds(1, asked) for asked in (7.5, 3600, 0)] == [7.5, 60, 0]


def test_no_initial_delay_is_no_wait() -> None:
    assert Backoff(initial=0).seconds(9) == 0
