"""`--mode auto`: which response mode the next request takes. Pure.

On a Dify of default size short runs come to 8 a second in streaming mode, at any concurrency, as each stream holds its
connection for a second after its end and 4 are executed at a time; in blocking mode to 21 to 32. A lost blocking answer
is found by its `user` as exactly as a lost stream. But proxies cut answers that take long, a pause for a person is told
better by a stream, and only a stream tells the price. So:

    begin with streaming
    -> blocking    once so many runs have ended that their length is known, and nearly all are short
    -> streaming   when one takes longer than short: until as many again have ended, nearly all of them short
    -> streaming   for good, when a run pauses for a person, or something in between cuts a blocking answer
"""

from __future__ import annotations

from collections import deque
from typing import Literal, TypeAlias

from dify_batch.outcomes import Failed, Lost, Outcome, Paused, Running, Succeeded

Mode: TypeAlias = Literal["streaming", "blocking"]

SHORT = 20.0
"""Seconds: well inside the 60 after which the most impatient of common proxies cut an answer."""

_KNOWN_AFTER = 20
"""Runs: of so many the length of nearly all is told well enough, and a batch of 20 rows is over anyway."""

_WINDOW = 100
"""The latest runs count."""

_NEARLY_ALL = 0.95

_PROXY = frozenset({408, 504, 524})
"""What a proxy answers that has waited in vain for the server."""

_ROUND = 5.0
_NEAR = 0.5
"""A cut within half a second of a multiple of five seconds, from 30 on, is a time-out somewhere in between."""


class Modes:
    """`asked`: --mode. `stay`: the mode in which `auto` must stay (a budget in money needs streams), or None."""

    def __init__(self, asked: Literal["auto", "streaming", "blocking"], *, stay: Mode | None = None) -> None:
        self._auto = asked == "auto" and stay is None
        self.current: Mode = "streaming" if asked == "auto" else asked
        self.why = "as asked for" if asked != "auto" else "to begin with"
        if stay is not None and asked == "auto":
            self.current, self.why = stay, "as --max-cost needs the prices that only streams tell"
        self._lengths: deque[float] = deque(maxlen=_WINDOW)

    def ended(self, outcome: Outcome, mode: Mode, seconds: float) -> bool:
        """An attempt in this mode has come to its end after so many seconds. True if the mode has changed."""
        if not self._auto:
            return False
        before = self.current
        match outcome:
            case Paused():
                self._for_good("a run pauses for a person")
            case Lost(http_status=status) if mode == "blocking" and (status in _PROXY or _looks_cut(outcome, seconds)):
                self._for_good(f"a blocking answer was cut after {seconds:.0f} s")
            case Succeeded(result=result) | Failed(result=result):
                self._run(result.elapsed_time if result.elapsed_time else seconds)
            case Running() if seconds > SHORT:
                self._run(seconds)
            case _:
                pass
        return self.current != before

    def _for_good(self, why: str) -> None:
        self._auto = False
        self.current, self.why = "streaming", why

    def _run(self, seconds: float) -> None:
        self._lengths.append(seconds)
        if self.current == "blocking" and seconds > SHORT:
            self._lengths.clear()  # it wants as many again
            self.current, self.why = "streaming", f"a run took {seconds:.0f} s"
        elif self.current == "streaming" and len(self._lengths) >= _KNOWN_AFTER:
            short = sum(length <= SHORT / 2 for length in self._lengths)
            if short >= _NEARLY_ALL * len(self._lengths):
                self.current = "blocking"
                self.why = f"{short} of the last {len(self._lengths)} runs took less than {SHORT / 2:g} s"


def _looks_cut(outcome: Lost, seconds: float) -> bool:
    return outcome.http_status is None and seconds >= 30.0 and abs(seconds - _ROUND * round(seconds / _ROUND)) <= _NEAR
