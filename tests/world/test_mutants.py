"""Each known fault is found by the history that is kept for it, and that history goes well without it."""

from __future__ import annotations

import pytest

from tests.world.history import History
from tests.world.mutants import KEPT, MUTANTS, wrong_with
from tests.world.run import play


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_a_known_fault_is_found(name: str) -> None:
    """Where the history no longer shows it: python -m tests.world --mutants finds another."""
    history = History.from_json(KEPT.joinpath(f"{name}.json").read_text())
    assert wrong_with(name, history)
    assert play(history).violations == []


def test_none_is_kept_that_is_no_more() -> None:
    assert {path.stem for path in KEPT.glob("*.json")} == set(MUTANTS)
