"""`AutoLimit` against a server of hidden capacity in virtual time, and rule by rule."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from statistics import fmean

import pytest

from dify_batch.engine.auto import AutoLimit
from dify_batch.engine.limit import Limit
from tests.support.limit_model import WIRE, History, Mode, Server, best_fixed, simulate

# The capacity of each phase of a run.
CAPACITIES = (8, 40, 3)
MODES: tuple[Mode, ...] = ("streaming", "blocking", "refusing")
# The least that is asked for: this part of the best fixed setting's throughput.
SHARE = 0.85


def auto(clock: Callable[[], float]) -> Limit:
    return AutoLimit(clock=clock)


def constant(seconds: float) -> Callable[[random.Random], float]:
    return lambda rng: seconds


def lognormal(rng: random.Random) -> float:
    """Median 0.6 s, mean 1 s, one in a hundred above 6 s."""
    return rng.lognormvariate(-0.5, 1.0)


def phases(length: float) -> list[tuple[float, int]]:
    return [(number * length, capacity) for number, capacity in enumerate(CAPACITIES)]


def shares(server: Server, history: History, length: float, grace: float, *, seed: int) -> list[float]:
    """Throughput from `grace` after each change on, as a part of the best fixed setting's."""
    return [
        history.throughput(since + grace, since + length) / best_fixed(server, capacity, length - grace, seed=seed)
        for since, capacity in server.phases
    ]


def overloads(server: Server, history: History, length: float) -> list[float]:
    """Seconds of the longest time with more than twice the capacity in flight, for each phase."""
    return [history.longest_above(2 * capacity, since, since + length) for since, capacity in server.phases]


# ---------------------------------------------------------------- the hidden capacity: 8, then 40, then 3


@pytest.mark.parametrize("mode", MODES)
def test_short_runs_reach_the_best_within_30_s_and_never_overload_for_5_s(mode: Mode) -> None:
    server = Server(mode, phases(60), constant(0.2))
    history = simulate(server, auto, 180)
    assert min(shares(server, history, 60, 30, seed=1)) >= SHARE
    assert max(overloads(server, history, 60)) <= 5


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("mode", MODES)
def test_long_tailed_runs_reach_the_best_within_30_s(mode: Mode, seed: int) -> None:
    server = Server(mode, phases(120), lognormal)
    history = simulate(server, auto, 360, seed=seed)
    assert min(shares(server, history, 120, 30, seed=seed)) >= SHARE
    first, second, third = overloads(server, history, 120)
    assert max(first, second) <= 5
    # What was sent for a capacity of 40 cannot be called back: 3 at a time bring it down to 6, if nothing is refused.
    drain = 0.0 if mode == "refusing" else (in_flight(history, 240) - 6) * 1.0 / 3
    assert third <= drain + 10  # in runs, and 10 of them


@pytest.mark.parametrize("mode", MODES)
def test_runs_of_20_s_reach_the_best_within_15_runs(mode: Mode) -> None:
    length, run = 1200.0, 20.0
    server = Server(mode, phases(length), constant(run))
    history = simulate(server, auto, 3 * length)
    assert min(shares(server, history, length, 15 * run, seed=1)) >= SHARE
    first, second, third = overloads(server, history, length)
    assert max(first, second) <= 5
    drain = 0.0 if mode == "refusing" else (in_flight(history, 2 * length) - 6) * run / 3
    # Blocking, where a wait shows only with the end of a run, the turn that it takes to be sure of it is seen twice.
    assert third <= drain + (4 if mode == "blocking" else 2) * run


@pytest.mark.parametrize("mode", MODES)
def test_runs_of_minutes_converge_too(mode: Mode) -> None:
    server = Server(mode, phases(7200), lambda rng: rng.lognormvariate(4.5, 0.6))  # median 90 s
    history = simulate(server, auto, 3 * 7200, seed=3)
    assert min(shares(server, history, 7200, 1800, seed=3)) >= SHARE


def in_flight(history: History, time: float) -> int:
    return max(value for at, value in history.in_flight if time - 20 <= at <= time)


def test_streaming_the_first_doublings_do_not_wait_for_a_run_to_end() -> None:
    history = simulate(Server("streaming", [(0, 16)], constant(600)), auto, 1)
    assert history.last_limit(1) == 16
    assert not history.finished


def test_refusals_are_few() -> None:
    server = Server("refusing", [(0, 8)], constant(0.2))
    history = simulate(server, auto, 120)
    tries = [time for time in history.refused if time > 10]
    assert len(history.finished) > 100 * len(tries) > 0  # it does try, but seldom


# ---------------------------------------------------------------- delays that are no queue


@pytest.mark.parametrize("run", [constant(0.2), lognormal, constant(20.0)], ids=["0.2s", "long tail", "20s"])
def test_a_server_that_starts_slowly_by_nature_is_used_in_full(run: Callable[[random.Random], float]) -> None:
    server = Server("streaming", [(0, 8)], run, cold=lambda rng, now: rng.uniform(0.8, 1.2))
    length = 240.0 if run(random.Random(1)) < 20 else 2000.0
    history = simulate(server, auto, length)
    best = best_fixed(server, 8, length * 3 / 4)
    assert history.throughput(length / 4, length) >= SHARE * best


def test_delays_as_random_as_the_runs_are_long_do_not_make_it_collapse() -> None:
    server = Server("streaming", [(0, 8)], lognormal, cold=lambda rng, now: rng.expovariate(1.0))
    history = simulate(server, auto, 300)
    assert history.throughput(60, 300) >= 0.7 * best_fixed(server, 8, 240)


def test_a_server_that_becomes_slow_to_start_is_found_out() -> None:
    server = Server("streaming", [(0, 8)], constant(0.2), cold=lambda rng, now: 1.0 if now > 60 else 0.0)
    history = simulate(server, auto, 180)
    slow = Server("streaming", [(0, 8)], constant(0.2), cold=lambda rng, now: 1.0)
    assert history.throughput(90, 180) >= SHARE * best_fixed(slow, 8, 90)


# ---------------------------------------------------------------- growth without use, growth without gain


def test_it_does_not_grow_when_the_rate_is_what_limits() -> None:
    history = simulate(Server("streaming", [(0, 1000)], constant(0.2)), auto, 60, rate=20)
    assert history.throughput(10, 60) == pytest.approx(20, rel=0.05)
    assert max(limit for _, limit in history.limit) <= 16  # 4 are in flight


@pytest.mark.parametrize(("run", "length"), [(constant(0.2), 120), (lognormal, 300)])
def test_it_does_not_grow_when_more_at_once_only_makes_runs_slower(
    run: Callable[[random.Random], float], length: float
) -> None:
    server = Server("streaming", [(0, 10)], run, shared=True)
    history = simulate(server, auto, length)
    limits = [history.last_limit(time) for time in range(30, int(length))]
    assert max(limits) <= 64 < 512
    assert fmean(limits) <= 40
    assert history.throughput(30, length) >= SHARE * best_fixed(server, 10, length - 30)


def test_without_any_sign_it_stops_at_the_most() -> None:
    server = Server("streaming", [(0, 10_000)], constant(0.2))
    history = simulate(server, lambda clock: AutoLimit(most=100, clock=clock), 20)
    assert history.last_limit(20) == max(limit for _, limit in history.limit) == 100


# ---------------------------------------------------------------- rule by rule


class Hand:
    """An AutoLimit whose clock and events are set by hand, always in full use."""

    def __init__(self) -> None:
        self.now = 100.0
        self.limit = AutoLimit(start=1, clock=lambda: self.now)

    def start(self, delay: float, in_flight: int | None = None) -> None:
        """A request is sent now and starts after `delay`."""
        self.now += delay
        self.limit.started(delay, self.limit.current if in_flight is None else in_flight)

    def grow_to(self, level: int) -> None:
        while self.limit.current < level:
            self.start(0.01)
        assert self.limit.current == level

    def starts(self, delays: Sequence[float]) -> int:
        for delay in delays:
            self.start(delay)
        return self.limit.current


def test_from_one_it_doubles_with_each_start_that_did_not_wait_and_goes_on_with_care_from_nine() -> None:
    hand = Hand()
    assert hand.limit.current == 1
    assert [hand.starts([0.01] * added) for added in (1, 1, 2, 4, 1, 1, 2, 4)] == [2, 4, 8, 9, 10, 12, 16, 16]


def test_starts_while_the_limit_is_not_used_do_not_make_it_grow() -> None:
    hand = Hand()
    hand.starts([0.01] * 2)
    assert hand.limit.current == 4
    for _ in range(20):
        hand.start(0.01, in_flight=2)
    assert hand.limit.current == 4


def test_a_start_of_a_request_sent_before_the_last_change_says_nothing_about_growth() -> None:
    hand = Hand()
    hand.starts([0.01] * 4)
    assert hand.limit.current == 8
    for _ in range(20):
        hand.limit.started(50.0 + WIRE, hand.limit.current)  # sent long before
    assert hand.limit.current <= 8


def test_a_burst_of_refusals_leaves_as_many_as_the_server_took() -> None:
    hand = Hand()
    hand.grow_to(16)
    for in_flight in range(16, 10, -1):  # six of sixteen are refused
        hand.limit.throttled(in_flight)
    assert hand.limit.current == 10


def test_refusals_in_one_tick_count_one_each() -> None:
    """The event loop may handle many answers before any of their tasks is done."""
    hand = Hand()
    hand.grow_to(16)
    for _ in range(6):
        hand.limit.throttled(16)
    assert hand.limit.current == 10


def test_a_refusal_ends_doubling_and_holds_growth_for_a_while() -> None:
    hand = Hand()
    hand.starts([0.01] * 4)
    hand.limit.throttled(8)
    assert hand.limit.current == 7
    assert hand.starts([0.01] * 20) == 7
    hand.now += 5
    assert hand.starts([0.01]) == 8


def test_the_last_place_is_never_taken() -> None:
    hand = Hand()
    for _ in range(5):
        hand.limit.throttled(1)
    assert hand.limit.current == 1


def test_a_row_that_is_refused_for_its_inputs_says_nothing() -> None:
    hand = Hand()
    hand.starts([0.01] * 4)
    before = hand.limit.current
    for _ in range(100):
        hand.now += 1
        hand.limit.finished(0.005, before)  # no start, no run
    assert hand.limit.current == before


def test_runs_that_are_never_told_to_end_are_forgotten() -> None:
    """Lost answers: started, and then followed by other means. They must not count as running for ever."""
    hand = Hand()
    for _ in range(200):
        hand.start(0.01)
        hand.now += 0.2
    for _ in range(200):
        hand.start(0.01, in_flight=1)
        hand.now += 0.2
        hand.limit.finished(0.21, 1)
    assert hand.limit._runs.running == 0


def test_ends_without_starts_are_a_queue() -> None:
    """Runs of 20 s end, what is sent in their place does not start: that shows before the first late start."""
    hand = Hand()
    hand.grow_to(16)
    sent = [hand.now - 0.01 * number for number in range(1, 9)][::-1]
    hand.now += 20
    for number, at in enumerate(sent):
        hand.limit.finished(hand.now - at, 16)
        hand.now += 3.0
        if number == 0:
            assert hand.limit.current == 16
    assert hand.limit.current < 16
