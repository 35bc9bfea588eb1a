"""What it means for a run that the exchange about it broke off, timed out or fell silent."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Protocol

from dify_batch.dify import certificates
from dify_batch.dify.failures import Broken
from dify_batch.dify.protocol import Reader
from dify_batch.outcomes import Fatal, Lost, Outcome, Running, Throttled, Unreachable


def broken_off(broken: Broken, events: Reader, *, begun: bool, answered: bool) -> Outcome:
    """`begun`: an answer had begun. `answered`: Dify has answered something before, so its certificate is known."""
    if broken.meaning == "unreachable" and not begun:
        if broken.distrusted and not answered:
            return Fatal("app", "certificate", str(broken), None, certificates.hint(os.environ))
        if broken.own_limit:  # never an outage: as many as there are room for go on
            return Throttled(str(broken))
        return Unreachable(str(broken))
    if broken.own_limit:
        return events.end(str(broken))
    if broken.meaning == "timeout":
        return unfinished(events, f"timeout: {broken}")
    if broken.too_large:
        return unfinished(events, str(broken))
    return events.end(str(broken) if broken.garbled else f"connection cut: {broken}")


class Ends(Protocol):
    """What reads the events of a run, as far as it is asked here."""

    def end(self, reason: str) -> Running | Lost: ...


def silent(events: Ends, seconds: float) -> Outcome:
    """Nothing was heard for so long after the start: an outcome that says so where the run is known."""
    end = events.end(f"silent for {seconds:g} s after the start")
    return replace(end, silent=True) if isinstance(end, Running) else end


def unfinished(events: Reader, reason: str) -> Outcome:
    """The run goes on, or, where none is known yet, the request is lost."""
    if events.ref is not None:
        return Running(events.ref, reason)
    return Lost(reason, server_error=False, accepted=events.accepted)
