"""A result line on its way into the results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dify_batch.ledger.formats import json_line


@dataclass(frozen=True, slots=True)
class Held:
    """A result that waits for its turn: its line, and what the journal says of it. `first`: the row whose run it shares
    (--dedupe)."""

    line: bytes
    run_id: str
    status: str
    first: str | None = None

    @classmethod
    def of_journal(cls, line: Mapping[str, Any]) -> Held:
        """From the record of an earlier batch."""
        first = line.get("copy_of")
        run_id, status = str(line["workflow_run_id"]), str(line["status"])
        return cls(json_line(line), run_id, status, first if isinstance(first, str) else None)
