"""Who may send how many rows now: never more than the whole batch may, whatever the workers say."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dify_batch.engine.budget import Budget
from dify_batch.engine.limit import FixedLimit
from dify_batch.scale.messages import Grant, Report
from dify_batch.scale.permits import HANDFUL, LIFETIME
from dify_batch.scale.sharing import HORIZON, MARGIN, Sharing
from dify_batch.usage import Total, Use


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now


def report(**given: Any) -> Report:
    return Report(**({"beat": 5.0, "used": 0, "dropped": 0, "busy": 0, "want": 1000} | given))


def sharing(most: int, workers: int = 2, **given: Any) -> tuple[Sharing, Clock]:
    clock = Clock()
    found = Sharing(FixedLimit(most, clock=clock.monotonic), clock, **given)
    for worker in range(1, workers + 1):
        found.joined(worker)
        found.told(worker, report())
    return found, clock


def number(grant: Grant) -> int:
    return grant.count + len(grant.after)


def granted(found: Sharing) -> dict[int, int]:
    return {worker: number(grant) for worker, grant in found.due()[0].items()}


def test_what_is_free_is_shared_evenly_and_once() -> None:
    found, _ = sharing(10, workers=4)
    assert sorted(granted(found).values()) == [2, 2, 3, 3]
    assert granted(found) == {}, "permits that are out take places"


def test_a_worker_with_more_to_do_gets_what_others_do_not_want() -> None:
    found, _ = sharing(10)
    found.told(1, report(want=2))
    assert granted(found) == {1: 2, 2: 8}


def test_a_used_permit_is_a_busy_place_and_an_expired_one_is_free_again() -> None:
    found, _ = sharing(4, workers=1)
    assert granted(found) == {1: 4}
    found.told(1, report(used=3, busy=3, dropped=1))
    assert granted(found) == {1: 1}
    found.told(1, report(used=4, busy=1, dropped=1, ended=3))
    assert granted(found) == {1: 3}


def test_no_more_than_a_handful_is_out() -> None:
    found, _ = sharing(1000, workers=1)
    assert granted(found) == {1: HANDFUL}


def test_the_beat_of_the_worker_comes_back_with_its_permits() -> None:
    found, _ = sharing(4, workers=1)
    found.told(1, report(beat=77.5))
    assert found.due()[0][1].beat == 77.5


def test_a_silent_worker_gets_nothing_and_its_permits_count_until_they_have_run_out() -> None:
    found, clock = sharing(4)
    found.told(2, report(want=0))
    assert granted(found) == {1: 4}
    clock.now += LIFETIME
    found.told(2, report())
    assert granted(found) == {}
    clock.now += MARGIN + 0.1
    assert granted(found) == {2: 4}
    assert found.silent(LIFETIME) == [1]


def test_what_a_dead_worker_had_counts_until_its_part_is_taken_up() -> None:
    found, _ = sharing(6)
    assert granted(found) == {1: 3, 2: 3}
    found.told(1, report(used=2, busy=2))
    found.left(1, part=7)
    found.told(2, report(used=3, busy=0, ended=3))
    assert granted(found) == {2: 3}, "three may be executing"
    found.joined(3)
    found.told(3, report(busy=2, want=0, at=7))
    assert granted(found) == {2: 1}


def test_a_rate_is_kept_whoever_sends() -> None:
    found, clock = sharing(1000, rate=100.0)
    moments = []
    while clock.now < 1010.0:
        grants, again = found.due()
        for worker, grant in grants.items():
            account = found._accounts[worker]
            moments += [clock.now + seconds for seconds in grant.after] or [clock.now] * grant.count
            found.told(worker, report(used=account.granted, ended=account.granted))
        assert again is not None
        clock.now += again
    assert len(moments) == pytest.approx(1000 + 100 * HORIZON, abs=3)
    moments.sort()
    for first, later in zip(moments, moments[100:], strict=False):
        assert later - first > 0.99


def test_one_at_a_time_pauses_from_the_end_of_one() -> None:
    found, clock = sharing(1, wait=2.0, one_at_a_time=True)
    assert sum(granted(found).values()) == 1
    found.told(1, report(used=1, ended=1))
    grants, again = found.due()
    assert grants == {}
    assert again == pytest.approx(2.0 - HORIZON)
    clock.now += 2.0
    assert sum(granted(found).values()) == 1


def test_in_an_outage_one_row_of_the_whole_batch_goes() -> None:
    found, _ = sharing(10, workers=3)
    found.told(2, report(outage="away", want=1))
    found.told(3, report(outage="away", want=1))
    assert found.outage == "away"
    assert granted(found) == {2: 1}
    assert granted(found) == {}
    found.told(2, report(used=1, busy=1))
    assert granted(found) == {3: 1}, "then the next one finds out"
    found.told(3, report(used=1, busy=1))
    assert sum(granted(found).values()) == 8


def test_a_budget_is_that_of_all() -> None:
    budget = Budget(100, None, Total())
    found, _ = sharing(10, budget=budget, workers=1)
    assert granted(found) == {1: 1}, "until a run has told what it uses, one goes"
    found.told(1, report(used=1, ended=1, uses=((10, None),)))
    assert granted(found) == {1: 9}
    found.told(1, report(used=9, ended=9, uses=tuple((10, None) for _ in range(8))))
    assert granted(found) == {}
    assert not found.reached, "a permit is out"
    found.told(1, report(used=10, ended=10, uses=((10, None),)))
    assert granted(found) == {}
    assert found.reached


def test_a_budget_counts_rows_that_may_have_a_run() -> None:
    budget = Budget(100, None, Total())
    budget.told(Use(10))
    found, _ = sharing(10, budget=budget, workers=1)
    found.told(1, report(lost=7))
    assert granted(found) == {1: 2}
    found.told(1, report(lost=0))
    assert granted(found) == {1: 7}


def test_a_budget_in_money_of_several_currencies() -> None:
    budget = Budget(None, Decimal("1.00"), Total())
    found, _ = sharing(10, budget=budget, workers=1)
    found.told(1, report(uses=((10, {"USD": "0.5", "EUR": "0.2"}),)))
    assert granted(found) == {1: 1}
    assert budget.used.prices == {"USD": Decimal("0.5"), "EUR": Decimal("0.2")}
    budget.told(Use(10, several={"USD": Decimal("0.5")}))
    found.told(1, report(dropped=1))
    assert granted(found) == {}
    assert found.reached


def test_throttling_lowers_the_limit_of_all() -> None:
    found, _ = sharing(10)
    found.told(1, report(busy=5, throttled=1))
    assert found.limit.current == 4


def test_nothing_is_granted_once_it_is_closed() -> None:
    found, _ = sharing(10)
    found.open = False
    assert found.due() == ({}, None)


@given(st.data())
def test_never_more_places_are_taken_than_the_limit(data: st.DataObject) -> None:
    """Workers that use, drop, end and die at will."""
    most = data.draw(st.integers(1, 12))
    found, clock = sharing(most, workers=3)
    state = {worker: {"out": 0, "used": 0, "dropped": 0, "busy": 0, "ended": 0} for worker in (1, 2, 3)}
    left_behind = 0
    for _ in range(data.draw(st.integers(1, 40))):
        for worker, grant in found.due()[0].items():
            state[worker]["out"] += number(grant)
        executing = sum(one["busy"] + one["out"] for one in state.values()) + left_behind
        assert executing <= most
        worker = data.draw(st.sampled_from(sorted(state)))
        own = state[worker]
        match data.draw(st.sampled_from(["use", "drop", "end", "die", "wait"])):
            case "use" if own["out"]:
                own["out"], own["used"], own["busy"] = own["out"] - 1, own["used"] + 1, own["busy"] + 1
            case "drop" if own["out"]:
                own["out"], own["dropped"] = own["out"] - 1, own["dropped"] + 1
            case "end" if own["busy"]:
                own["busy"], own["ended"] = own["busy"] - 1, own["ended"] + 1
            case "die" if len(state) > 1:
                left_behind += own["busy"] + own["out"]
                del state[worker]
                found.left(worker, part=100 + worker)
                continue
            case "wait":
                clock.now += 0.5
        if data.draw(st.booleans()):
            told = {name: own[name] for name in ("used", "dropped", "busy", "ended")}
            found.told(worker, report(**told))
