"""The users that requests are sent under."""

from __future__ import annotations

from dify_batch.engine.slots import Slots, looks_own


def test_a_slot_keeps_its_user_until_a_request_is_lost() -> None:
    slots = Slots("ab12", None)
    first, second = slots.take(), slots.take()
    assert (first.user, second.user) == ("dify-batch-ab12-1", "dify-batch-ab12-2")
    slots.give(first, lost=False)
    again = slots.take()
    assert again.user == first.user
    slots.give(again, lost=True)
    assert slots.take().user == "dify-batch-ab12-3"


def test_which_users_look_like_those_of_slots() -> None:
    assert looks_own("dify-batch-6b02515699c97f-12")
    assert not looks_own("nightly")
    assert not looks_own("dify-batch-of-mine")


def test_a_user_of_columns() -> None:
    assert Slots("x", "crm-{id}").user(Slots("x", None).take(), {"id": "a"}) == "crm-a"
