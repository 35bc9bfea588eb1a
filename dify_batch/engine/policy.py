"""What is repeated, and how long it waits. Pure, on tenacity's wait strategies.

The wait before the n-th repetition is drawn evenly from 0 to min(maximum, initial · 2^(n-1)): full jitter, so that
rows which failed together do not come back together. A Retry-After of the server replaces it, up to the maximum.

`waiting(False)` switches all waits of this module off, for tests; it is the only switch there is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

from tenacity import RetryCallState, Retrying
from tenacity.wait import wait_random_exponential

from dify_batch.outcomes import (
    Failed,
    Fatal,
    Lost,
    Outcome,
    Paused,
    Rejected,
    Running,
    Succeeded,
    Throttled,
    Unreachable,
)

PolicyName: TypeAlias = Literal["strict", "safe", "all"]

_waiting = True


@contextmanager
def waiting(on: bool) -> Iterator[None]:
    """Switches the waits on or off while the block runs."""
    global _waiting
    before, _waiting = _waiting, on
    try:
        yield
    finally:
        _waiting = before


@dataclass(frozen=True, slots=True)
class Repeat:
    """Send it again after `wait` seconds. `charged`: it uses up one of the row's retries."""

    wait: float
    reason: str
    charged: bool


@dataclass(frozen=True, slots=True)
class GiveUp:
    """To `.retry`."""

    kind: str
    code: str
    message: str
    run_id: str | None = None


@dataclass(frozen=True, slots=True)
class LookUp:
    """Ask the server's log what became of it before anything else."""

    reason: str


@dataclass(frozen=True, slots=True)
class Follow:
    """The run is known: stay with it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Keep:
    """It has its result, or waits for a person."""


@dataclass(frozen=True, slots=True)
class Stop:
    """No row can succeed: end the batch."""


Decision: TypeAlias = Repeat | GiveUp | LookUp | Follow | Keep | Stop


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`max_retries`: attempts after the first. `initial`, `maximum`: seconds."""

    name: PolicyName = "safe"
    max_retries: int = 3
    initial: float = 1.0
    maximum: float = 60.0

    def wait(self, repetition: int, retry_after: float | None = None) -> float:
        """Seconds before the n-th repetition (from 1). A longer Retry-After is honoured up to `maximum`."""
        if not _waiting:
            return 0.0
        if retry_after is not None:
            return max(0.0, min(retry_after, self.maximum))
        strategy = wait_random_exponential(multiplier=self.initial, max=self.maximum)
        state = RetryCallState(_RETRYING, None, (), {})
        # tenacity's exponent is attempt_number - 1; past 64 the cap has long been reached, and 2.0 ** n would overflow
        state.attempt_number = min(max(1, repetition), 64)
        return strategy(state)

    def decide(self, outcome: Outcome, *, retries: int, repetition: int) -> Decision:
        """What follows an outcome.

        Args:
            retries: how many of the row's retries are used up.
            repetition: how often in a row this row has been repeated, charged or not; sets the wait.
        """
        match outcome:
            case Succeeded() | Paused():
                return Keep()
            case Running(reason=reason):
                return Follow(reason)
            case Failed(confirmed=False):
                return Follow("the answer says stopped, which is not final")
            case Failed(result=result):
                if self.name == "all" and result.status == "failed" and retries < self.max_retries:
                    wait = self.wait(repetition)
                    return Repeat(wait, f"the run failed ({outcome.message}) and the policy is all", True)
                return GiveUp("failed", outcome.code, outcome.message, result.ref.run_id)
            case Rejected(code=code, message=message):
                return GiveUp("rejected", code, message)
            case Throttled(message=message, retry_after=retry_after):
                return Repeat(self.wait(repetition, retry_after), message, charged=False)
            case Unreachable(message=message):
                return Repeat(self.wait(repetition), message, charged=False)
            case Lost(reason=reason):
                return LookUp(reason)
            case Fatal():
                return Stop()

    def decide_absent(self, reason: str, *, retries: int, repetition: int, excused: bool) -> Decision:
        """What follows a lost request that the server's log does not show after the settle time.

        `excused`: it was lost in an outage, which uses up no row's retries.
        """
        if self.name == "strict":
            return GiveUp("unknown", "lost", f"{reason}; the server's log does not show it, and the policy is strict")
        if excused or retries < self.max_retries:
            wait = self.wait(repetition)
            return Repeat(wait, f"{reason}; the server's log does not show it", charged=not excused)
        return GiveUp("failed", "lost", f"{reason}; not in the server's log, and its {retries} retries are used up")

    def decide_unavailable(self, reason: str, *, retries: int, repetition: int) -> Decision:
        """What follows a lost request whose fate the log cannot or does not tell."""
        if self.name == "all" and retries < self.max_retries:
            return Repeat(self.wait(repetition), f"{reason}; the policy is all", charged=True)
        return GiveUp("unknown", "outcome_unknown", reason)


_RETRYING = Retrying()
