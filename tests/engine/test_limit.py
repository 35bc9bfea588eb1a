"""A fixed limit yields to throttling, and comes back."""

from __future__ import annotations

from dify_batch.engine.limit import FixedLimit


def test_a_burst_of_refusals_leaves_what_the_server_took() -> None:
    limit = FixedLimit(20, clock=lambda: 0.0)
    in_flight = 20
    for _ in range(18):
        limit.throttled(in_flight)
        in_flight -= 1
    assert limit.current == 2


def test_one_refusal_takes_one_place_and_the_last_place_stays() -> None:
    limit = FixedLimit(20, clock=lambda: 0.0)
    limit.throttled(20)
    assert limit.current == 19
    for _ in range(50):
        limit.throttled(1)
    assert limit.current == 1


def test_places_come_back_one_by_one_while_runs_end() -> None:
    now = [0.0]
    limit = FixedLimit(4, clock=lambda: now[0])
    for _ in range(3):
        limit.throttled(2)
    assert limit.current == 1
    limit.finished(0.1, 1)
    assert limit.current == 1, "not sooner than a second"
    for second in range(1, 20):
        now[0] = float(second)
        limit.finished(0.1, limit.current)
    assert limit.current == 4
    limit.finished(0.1, 4)
    assert limit.current == 4
