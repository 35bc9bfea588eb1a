"""How many connections this process may have open, so that its own limit never looks like a server that is away.

Each run in flight holds a connection, which is an open file to the system. The soft limit is raised as far as is needed
and allowed; where that does not do, fewer runs are in flight, and it is said once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal

KEPT = 64
"""Open files that are no runs: journal, results, lock, log, look-ups, uploads, name look-ups, the probe."""

Limits = tuple[int, int]
"""The soft and the hard limit of open files; -1 is none."""


def fit(wanted: int, *, limits: Limits | None, raise_to: Callable[[int], bool], open_now: int) -> int:
    """How many runs fit, at most `wanted`, at least 1.

    `limits`: None where the system has none. `raise_to`: sets the soft limit; whether that was possible. `open_now`:
    files that are open already.
    """
    if limits is None or limits[0] < 0:
        return wanted
    soft, hard = limits
    needed = wanted + KEPT + open_now
    if soft < needed:
        better = needed if hard < 0 else min(needed, hard)
        if better > soft and raise_to(better):
            soft = better
    return max(1, min(wanted, soft - KEPT - open_now))


def room(wanted: int) -> int:
    """How many of `wanted` runs may be in flight in this process; raises its soft limit for them."""
    try:
        import resource
    except ImportError:  # Windows has no such limit for sockets
        return wanted

    def raise_to(soft: int) -> bool:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        except (OSError, ValueError):  # macOS: the kernel has a lower limit than the one that it tells
            return False
        return True

    infinite = resource.RLIM_INFINITY
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = (-1 if soft == infinite else soft, -1 if hard == infinite else hard)
    return fit(wanted, limits=limits, raise_to=raise_to, open_now=_open_now())


def _open_now() -> int:
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return len(os.listdir(folder))
        except OSError:
            continue
    return 16  # an interpreter with a few pipes


def lowered(concurrency: int | Literal["auto"], fits: int) -> str | None:
    """What to say where not as many runs fit as were asked for."""
    if concurrency == "auto" or fits >= concurrency:
        return None
    return (
        f"at most {fits} runs in flight in place of {concurrency}: this process may not open more files "
        f"(ulimit -n {concurrency + KEPT + 16} before the command allows more)"
    )
