"""--keep-order: whatever the order in which rows end, results leave in that of the input."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dify_batch.engine.order import Order
from dify_batch.ledger.held import Held


def held(number: int) -> Held:
    return Held(f"{number}\n".encode(), f"run{number}", "succeeded")


@given(st.permutations(range(1, 13)), st.sets(st.integers(1, 12)), st.integers(1, 12))
def test_results_leave_in_order(ends: list[int], without_result: set[int], at_once: int) -> None:
    order = Order()
    read = 0
    left: list[int] = []
    under_way: set[int] = set()
    queue = list(ends)
    while queue or under_way:
        while read < 12 and len(under_way) < at_once:
            read += 1
            order.open(read)
            order.read_up_to(read)
            under_way.add(read)
        number = next((n for n in queue if n in under_way), None)
        if number is None:
            break
        queue.remove(number)
        under_way.remove(number)
        if number in without_result:
            order.skip(number)
        else:
            order.hold(number, f"r{number}", held(number))
        left += [int(row_id[1:]) for row_id, _ in order.due()]
    order.read_up_to(1 << 62)
    left += [int(row_id[1:]) for row_id, _ in order.due()]
    assert left == [n for n in range(1, 13) if n not in without_result]
    assert len(order) == 0


def test_a_result_waits_for_an_earlier_row_that_has_not_been_read_yet() -> None:
    order = Order()
    order.open(5)
    order.hold(5, "r5", held(5))
    assert list(order.due()) == []
    order.read_up_to(4)
    assert [row_id for row_id, _ in order.due()] == ["r5"]
