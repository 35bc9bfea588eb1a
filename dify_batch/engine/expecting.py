"""--expect: a run whose outputs are not as they should be has not given its row a result.

Whoever hears of a run's end (from its answer, its events, its detail) has it judged here first: it is `Invalid` then,
in place of `Succeeded`, and pool, course and books need to know no more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dify_batch.errors import BatchStopped
from dify_batch.outcomes import Invalid, Outcome, Succeeded

FIRST = 20
"""So many answers, all that there are, that miss the schema: it is the schema that is wrong, or the workflow."""

Misses = Callable[[Any], str | None]
"""Where and how outputs miss the schema; None where they fit."""


class Expectation:
    """`name`: of the schema, for people. `misses`: the check."""

    def __init__(self, name: str, misses: Misses) -> None:
        self._name = name
        self._misses = misses
        self._missed = 0
        self.trusted: bool = False
        """Whether answers of this output are known to fit."""

    def judged(self, outcome: Outcome) -> Outcome:
        """The outcome, where outputs that miss the schema are no result."""
        if isinstance(outcome, Succeeded) and (how := self._misses(outcome.result.outputs)) is not None:
            return Invalid(outcome.result, misses=how)
        return outcome

    def told(self, outcome: Outcome) -> BatchStopped | None:
        """A run has ended, and is told here once: the error that ends the batch where all the first have missed."""
        if isinstance(outcome, Succeeded):
            self.trusted = True
        elif isinstance(outcome, Invalid) and not self.trusted:
            self._missed += 1
            if self._missed >= FIRST:
                return BatchStopped(
                    f"the first {self._missed} answers all miss {self._name}, such as: {outcome.message}",
                    hint=f"correct {self._name} or the workflow, then run the same command again; --retry runs again "
                    "what has missed it",
                )
        return None
