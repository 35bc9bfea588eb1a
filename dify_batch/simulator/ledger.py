"""What the server really executed. Log and run detail may be wrong, late or empty; this is not."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(slots=True)
class Execution:
    """One execution of a row. begun, ended: seconds of the clock's `monotonic()`.

    inputs: as they were posted, JSON text. ended is None while it goes on, while it waits for a person, and for ever
    if what executed it was killed; status and outputs (JSON text) are what it came to, whatever was told or stored.
    """

    row: str
    run_id: str
    user: str
    mode: str
    inputs: str
    begun: float
    ended: float | None = None
    status: str | None = None
    outputs: str | None = None
    killed: bool = False  # what executed it was killed: it will never end

    def end(self, at: float, status: str, outputs: str) -> None:
        """It has come to this; only the first end counts."""
        if self.ended is None:
            self.ended, self.status, self.outputs = at, status, outputs


class Ledger:
    """All executions in the order of their begin, and how many there were of each row."""

    def __init__(self) -> None:
        self.executions: list[Execution] = []
        self.counts: dict[str, int] = {}

    def begin(self, execution: Execution) -> None:
        """Enters one."""
        self.executions.append(execution)
        self.counts[execution.row] = self.counts.get(execution.row, 0) + 1

    def of(self, row: str) -> list[Execution]:
        """The executions of one row."""
        return [execution for execution in self.executions if execution.row == row]

    def rows(self) -> list[dict[str, Any]]:
        """All of it as JSON objects."""
        return [asdict(execution) for execution in self.executions]
