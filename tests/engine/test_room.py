"""How much of the server the runs leave for others: the rules, and the batch in front of a Dify of default size."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dify_batch.engine.canary import Canary
from dify_batch.engine.limit import FixedLimit
from dify_batch.engine.room import Room
from dify_batch.simulator import Config
from tests.support.owned_time import LoopClock, play
from tests.support.shaped import Played, batch

# ---------------------------------------------------------------- the rules


def bounded(
    room: Room, current: int, target: int, *, now: float = 100.0, run: float = 20.0, silent: bool = True
) -> int:
    return room.bounded(now, current, target, run, silent=silent)


@pytest.mark.parametrize(
    ("current", "target", "found"),
    [
        (1, 2, 2),
        (5, 10, 9),  # no step jumps over what a Dify of default size leaves one of
        (8, 9, 9),
        (9, 18, 9),  # and there it waits until a run is about to end
    ],
)
def test_where_growth_stops_before_anything_is_known(current: int, target: int, found: int) -> None:
    assert bounded(Room(5), current, target) == found


def test_beyond_nine_it_grows_when_a_long_run_is_about_to_end() -> None:
    room = Room(5)
    room.ended(84.0)  # the next in its place is due at 104
    assert bounded(room, 9, 10, now=98.0) == 9
    assert bounded(room, 9, 10, now=100.0) == 10
    assert bounded(room, 9, 10, now=103.0) == 9, "too late to be told before the end"


def test_short_runs_and_streams_that_tell_their_start_need_no_end_that_is_due() -> None:
    assert bounded(Room(5), 9, 10, run=3.0) == 10
    assert bounded(Room(5), 9, 10, silent=False) == 10
    assert bounded(Room(5), 9, 10, run=0.0) == 9, "nothing has ended yet"


def test_an_answer_that_had_to_wait_leads_back_to_what_left_a_connection_free() -> None:
    room = Room(5)
    assert room.looked(0.0, 0.1, 9, 20.0) is None
    assert room.looked(1.0, 1.0, 10, 20.0) is None, "not longer than answers may take"
    assert room.looked(2.0, 1.5, 14, 20.0) == 10
    room.ended(84.0)
    assert bounded(room, 10, 11, now=61.9) == 10, "and no more is tried for three runs"
    room.ended(45.0)
    assert bounded(room, 10, 11, now=62.0) == 11


def test_what_is_far_away_answers_late_by_nature() -> None:
    room = Room(5)
    assert room.looked(0.0, 1.4, 9, 20.0) is None
    assert room.looked(1.0, 2.3, 10, 20.0) is None
    assert room.looked(2.0, 2.5, 11, 20.0) == 10


def test_behind_short_runs_nobody_waits_for_longer_than_one() -> None:
    room = Room(5)
    room.looked(0.0, 0.0, 9, 3.0)
    assert room.looked(1.0, 3.0, 12, 3.0) is None
    assert room.looked(2.0, 3.1, 16, 3.0) == 12
    assert bounded(room, 12, 13, now=3.0, run=3.0) == 13


def test_it_never_falls_below_what_is_taken_without_looking() -> None:
    room = Room(5)
    for _ in range(20):
        found = room.looked(0.0, 0.0, 3, 20.0) or room.looked(1.0, 9.0, 6, 20.0)
    assert found == 5


def test_a_fixed_limit_makes_room_while_look_ups_wait_and_comes_back() -> None:
    now = [0.0]
    limit = FixedLimit(16, clock=lambda: now[0])
    limit.looked(0.9, 16)
    assert limit.current == 16
    limit.looked(1.5, 16)
    assert limit.current == 9
    limit.looked(1.5, 9)
    assert limit.current == 8
    for second in range(1, 41):
        now[0] = float(second)
        for _ in range(16):
            limit.finished(0.1, 8)
        assert (limit.current > 8) == (second > 30)
    assert limit.current == 16


# ---------------------------------------------------------------- the question


def sung(answers: list[tuple[float, str | None]], until: float, *, wanted: bool = True) -> list[tuple[float, int]]:
    """What a canary told whose questions are answered so: after so many seconds, with nothing or an error."""

    async def story() -> list[tuple[float, int]]:
        told: list[tuple[float, int]] = []
        left = iter(answers)

        async def ask() -> str | None:
            seconds, said = next(left, (1e6, None))
            await asyncio.sleep(seconds)
            return said

        canary = Canary(
            ask,
            LoopClock(),
            in_flight=lambda: int(asyncio.get_running_loop().time()),
            wanted=lambda: wanted,
            tell=lambda seconds, in_flight: told.append((round(seconds, 3), in_flight)),
        )
        singing = asyncio.ensure_future(canary.sing())
        await asyncio.sleep(until)
        singing.cancel()
        await asyncio.gather(singing, return_exceptions=True)
        return told

    return play(story())


def test_it_tells_how_long_each_answer_took_and_how_many_were_in_flight_before() -> None:
    assert sung([(0.5, None), (0.25, None)], 3.0) == [(0.5, 1), (0.25, 2)]


def test_it_does_not_keep_a_long_wait_to_itself() -> None:
    assert sung([(8.0, None)], 4.0) == [(1.5, 1)]
    assert sung([(8.0, None)], 9.5) == [(1.5, 1), (8.0, 1)]


def test_a_quick_error_says_nothing_and_a_late_one_that_it_waited() -> None:
    assert sung([(0.1, "HTTP 502"), (10.0, "no answer")], 13.0) == [(1.5, 2), (10.0, 2)]


def test_where_nobody_wants_to_know_nothing_is_asked() -> None:
    assert sung([(0.1, None)], 10.0, wanted=False) == []


# ---------------------------------------------------------------- a Dify of default size

LONG = {0.0: 50.0, 3.0: 110.0, 20.0: 310.0}
"""Seconds of a run: seconds of the batch."""
FIXED = (10, 12)
"""One of these is the best fixed number for each: all connections are in use then, which no look-up likes."""


def played(latency: float, **flags: Any) -> Played:
    return batch(Config.docker(latency=latency), 1600, seconds=LONG[latency], **flags)


@pytest.mark.parametrize("mode", ["streaming", "blocking", "auto"])
@pytest.mark.parametrize("latency", sorted(LONG))
def test_auto_finds_the_best_within_half_a_minute_and_lets_look_ups_through(latency: float, mode: str) -> None:
    best = max(played(latency, mode=mode, concurrency=n).rate(30, LONG[latency]) for n in FIXED)
    found = played(latency, mode=mode, concurrency="auto")
    assert found.rate(30, LONG[latency]) >= 0.9 * best
    assert found.longest_look() <= 5.0


@pytest.mark.parametrize("mode", ["streaming", "blocking", "auto"])
@pytest.mark.parametrize("shape", ["docker", "no queue", "spread"])
def test_a_short_batch_takes_no_longer_with_auto_than_with_five(shape: str, mode: str) -> None:
    configs = {
        "docker": Config.docker(latency=5.0),
        "no queue": Config(latency=5.0, workers=None),
        "spread": Config.docker(latency=5.0, latency_tail=0.3),
    }
    auto, five = (batch(configs[shape], 20, mode=mode, concurrency=number).seconds for number in ("auto", 5))
    assert auto <= 1.1 * five


def test_what_is_looked_up_does_not_wait_behind_the_batch_s_own_runs() -> None:
    """Sixteen streams hold all ten connections; once an answer is lost, the batch leaves room."""
    lost = {"20": ["cut_after_accept"]}
    calm, after = (
        batch(Config.docker(latency=6.0), 100, mode="streaming", concurrency=16, timeout=120, faults=faults)
        for faults in ({}, lost)
    )
    assert min(limit for _, limit, _ in calm.limits[1:]) == 16
    assert min(limit for _, limit, _ in after.limits[1:]) == 9
    assert after.longest_look(70) < 0.6 * calm.longest_look(70)
    assert len(after.ends) == 100


@pytest.mark.parametrize("number", [5, 9, 10])
def test_a_second_ctrl_c_stops_the_runs_though_they_hold_all_connections(number: int) -> None:
    """Four runs of five minutes are executed, the other streams wait in the queue; each holds a connection."""
    found = batch(Config.docker(latency=300.0), 40, mode="streaming", concurrency=number, timeout=1000, stop_at=25.0)
    assert found.stopped == 4
    assert found.seconds < 40
    assert len(found.ends) == 4, "and the batch knows"
