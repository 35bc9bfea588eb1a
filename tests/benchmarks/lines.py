"""What a benchmark says: a figure, what it should be, and whether it is."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Line:
    """One measured figure.

    Args:
        item: which promise it belongs to.
        what: what was measured.
        value: the figure.
        unit: its unit; "×" and "%" are ratios within this run.
        target: what it should be, None for a figure that is only told.
        better: whether the figure should be at least, or at most, the target.
        note: what it is compared with.
    """

    item: str
    what: str
    value: float
    unit: str
    target: float | None = None
    better: Literal["least", "most"] = "least"
    note: str = ""

    @property
    def met(self) -> bool | None:
        """None where there is no target."""
        if self.target is None:
            return None
        return self.value >= self.target if self.better == "least" else self.value <= self.target

    def cells(self) -> tuple[str, str, str, str, str]:
        """item, what, figure, target, verdict."""
        sign = "≥" if self.better == "least" else "≤"
        target = "" if self.target is None else f"{sign} {_number(self.target)} {self.unit}"
        verdict = {None: "", True: "met", False: "missed"}[self.met]
        what = f"{self.what} ({self.note})" if self.note else self.what
        return self.item, what, f"{_number(self.value)} {self.unit}", target, verdict


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}".rstrip("0").rstrip(".")


HEADER = ("item", "what", "measured", "target", "verdict")


def table(lines: Iterable[Line]) -> str:
    """For a terminal."""
    rows = [HEADER, *(line.cells() for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def markdown(lines: Iterable[Line]) -> str:
    """For the README, with date and machine."""
    rows = [HEADER, ("---",) * len(HEADER), *(line.cells() for line in lines)]
    return f"{machine()}\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows)


def machine() -> str:
    """Where and when: nothing measured means anything without it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = os.getloadavg()[0]
    return (
        f"Measured on {time.strftime('%Y-%m-%d')}: {cores} cores ({platform.machine()}), {platform.system()}, "
        f"Python {platform.python_version()}; the machine's load was {load:.1f} at the end. "
        "Server, contenders and command share the cores; ratios are within one run."
    )
