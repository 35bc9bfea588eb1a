"""The users that requests are sent under."""

from __future__ import annotations

from dify_batch.engine.slots import Slots, columns_of, fill, is_own, unusable


def test_a_slot_keeps_its_user_until_a_request_is_lost() -> None:
    slots = Slots("ab12", None)
    first, second = slots.take(), slots.take()
    assert (first.user, second.user) == ("dify-batch-ab12-1", "dify-batch-ab12-2")
    slots.give(first, lost=False)
    again = slots.take()
    assert again.user == first.user
    slots.give(again, lost=True)
    assert slots.take().user == "dify-batch-ab12-3"


def test_which_users_belong_to_one_request_at_a_time() -> None:
    assert is_own("dify-batch-6b02515699c97f-12")
    assert not is_own("nightly")
    assert not is_own("dify-batch-of-mine")


def test_a_user_of_columns() -> None:
    assert columns_of("crm-{customer}-{id}") == ["customer", "id"]
    assert fill("crm-{customer}-{id}", {"customer": "Ö", "id": 7}) == "crm-Ö-7"
    assert Slots("x", "crm-{id}").user(Slots("x", None).take(), {"id": "a"}) == "crm-a"


def test_users_that_dify_does_not_take() -> None:
    assert unusable("x" * 255) is None
    assert "256 characters" in str(unusable("x" * 256))
    assert "empty" in str(unusable("  "))
    assert "NUL" in str(unusable("a\0b"))
