"""A run belongs to at most one row."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dify_batch.engine.claims import Claims, RunIds


@given(st.lists(st.text(min_size=1)))
def test_run_ids_are_a_set(ids: list[str]) -> None:
    found = RunIds()
    seen: set[str] = set()
    for run_id in ids:
        assert found.add(run_id) == (run_id not in seen)
        seen.add(run_id)
    assert len(found) == len(seen)
    assert all(run_id in found for run_id in seen)


def test_it_grows_and_forgets_none() -> None:
    ids = RunIds(f"run-{number}" for number in range(5000))
    assert len(ids) == 5000
    assert all(f"run-{number}" in ids for number in range(5000))
    assert "run-5000" not in ids


def test_a_run_that_another_row_has_is_refused_whoever_names_it() -> None:
    claims = Claims()
    assert claims.claim("run", "a")
    assert claims.claim("run", "a"), "its own again: the answer after workflow_started"
    assert not claims.claim("run", "b")
    assert claims.taken("run", "b")
    assert not claims.taken("run", "a")
    claims.settled("run")
    assert not claims.claim("run", "b"), "the row is done with it; it stays its"
    assert claims.over("run")
    assert not claims.over("unheard of")
    claims.resume("old", "c")
    assert claims.claim("old", "c")
    assert not claims.claim("old", "a")
    claims.resume_settled("older")
    assert claims.taken("older", "a")


def test_of_a_run_with_two_names_both_are_claimed_or_none() -> None:
    claims = Claims()
    assert claims.claim_all(("run", "talk"), "a")
    assert claims.claim_all(("run", "talk"), "a")
    assert not claims.claim_all(("other", "talk"), "b")
    assert not claims.taken("other", "c")
