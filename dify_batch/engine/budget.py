"""May a row begin, given what the output has used and what is in flight? Pure: the rule of --max-tokens, --max-cost.

Each run in flight is reserved at the most that a run has used so far. A row begins if the sum of what was used, what
is reserved, and one more such run is within the budget:

    used + (in flight + 1) x most  <=  budget

So the budget is passed only by a run that uses more than any before it. Until the first run has told what it used,
nothing can be reserved, and rows go one at a time. A run of which the server told nothing counts as the most.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum

from dify_batch.errors import DifyBatchError
from dify_batch.text import count
from dify_batch.usage import Total, Use, amount, price_text

# After so many runs that used tokens and told no price, a budget in money is known to be impossible to keep.
_BLIND_AFTER = 3


class Verdict(Enum):
    BEGIN = "begin"
    WAIT = "wait"  # a run in flight may use less than is reserved for it
    REACHED = "reached"  # nothing in flight, and one more row could pass the budget


@dataclass(slots=True)
class Budget:
    """The budget of an output: `max_tokens`, `max_cost` (of each currency by itself), None for no limit.

    `used`: what all runs of the output have used so far, of earlier invocations and failed ones too.
    """

    max_tokens: int | None = None
    max_cost: Decimal | None = None
    used: Total = field(default_factory=Total)

    def told(self, use: Use) -> None:
        """A run has ended, or was looked up; nothing is said of a row that never had a run."""
        self.used.add(use)

    def decide(self, in_flight: int) -> Verdict:
        """Whether one more row may begin beside `in_flight` runs."""
        if self.fits(in_flight):
            return Verdict.BEGIN
        return Verdict.WAIT if in_flight else Verdict.REACHED

    def fits(self, in_flight: int) -> bool:
        used = self.used
        if self.max_tokens is not None:
            if used.tokens_told:
                untold = used.runs - used.tokens_told
                if used.tokens + (untold + in_flight + 1) * used.most_tokens > self.max_tokens:
                    return False
            elif in_flight:
                return False
        if self.max_cost is not None:
            if used.prices_told:
                untold = used.runs - used.prices_told
                for currency, most in used.most_price.items():
                    if used.prices[currency] + (untold + in_flight + 1) * most > self.max_cost:
                        return False
            elif in_flight or self.blind:
                return False
        return True

    @property
    def blind(self) -> bool:
        """No run has told a price, so that --max-cost cannot be kept."""
        return self.max_cost is not None and not self.used.prices_told and self.used.runs >= _BLIND_AFTER

    def error(self, rows_left: int) -> DifyBatchError:
        """What a batch ends with that the budget has stopped: what was used, what is left, the estimate for it."""
        used = self.used
        if self.blind:
            return DifyBatchError(
                f"--max-cost cannot be kept: the server told no price for {count(used.runs, 'run')}",
                code="budget_reached",
                hint="limit the tokens in place of the cost: --max-tokens N",
                rows_left=rows_left,
            )
        limits, facts = [], []
        tokens, prices = used.for_rows(rows_left)
        if self.max_tokens is not None:
            limits.append(f"--max-tokens {self.max_tokens}")
            facts.append(f"{used.tokens:,} tokens")
        if self.max_cost is not None:
            limits.append(f"--max-cost {self.max_cost:f}")
            facts.append(price_text(used.prices) or amount(Decimal(0)))
        needs = [f"about {tokens:,} tokens"] if tokens is not None else []
        needs += [f"about {price_text(prices)}"] if prices else []
        left = f"{count(rows_left, 'row is', 'rows are')} left" + (
            f" and would use {', '.join(needs)}" if needs else ""
        )
        return DifyBatchError(
            f"one more row could pass {' or '.join(limits)}: {', '.join(facts)} used so far; {left}",
            code="budget_reached",
            hint="raise the budget and run the same command again: it goes on where it stopped",
            rows_left=rows_left,
        )
