"""What is told to somebody who does not watch: an event of a batch as JSON for webhooks, as text for people. Pure.

The schema is stable: fields may be added, none changes its meaning. It never holds the key, nor anything out of rows
or out of messages about them: codes and counts only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dify_batch.errors import DifyBatchError, Exit
from dify_batch.ledger.formats import utc
from dify_batch.summary import Summary
from dify_batch.text import count, duration

SCHEMA = "dify-batch/notification/1"
Kind = Literal["end", "needs_person", "outage"]
_NOBODY = (Exit.OK, Exit.UNFINISHED, Exit.SIGINT, Exit.SIGTERM)


@dataclass(frozen=True, slots=True)
class Notification:
    """One event. `at`: seconds since 1970; `failures`: how many rows failed, by code; `outage_seconds`: how long the
    server has been away, where that is what is told."""

    event: Kind
    output: str
    at: float
    summary: Mapping[str, Any]
    exit_status: int | None = None
    code: str | None = None
    failures: Mapping[str, int] | None = None
    outage_seconds: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The body of a webhook."""
        return {
            "schema": SCHEMA,
            "event": self.event,
            "title": self.title,
            "text": self.text,
            "at": utc(self.at),
            "output": self.output,
            "exit_status": self.exit_status,
            "error": self.code,
            "outage_seconds": None if self.outage_seconds is None else round(self.outage_seconds, 1),
            "failures": dict(self.failures or {}),
            "summary": dict(self.summary),
        }

    @property
    def title(self) -> str:
        what = {"end": "the batch has ended", "needs_person": "a person is needed", "outage": "the server is away"}
        return f"dify-batch: {what[self.event]}: {self.output}"

    @property
    def text(self) -> str:
        """For people, in a few lines."""
        counts = ((name, self.summary.get(name, 0)) for name in Summary.STATES)
        states = [f"{number:,} {name.replace('_', ' ')}" for name, number in counts if number]
        lines = [f"{count(self.summary.get('rows', 0), 'row')}: {', '.join(states) or 'nothing done'}"]
        if self.outage_seconds is not None:
            lines.append(f"The server has been away, or has refused more, for {duration(self.outage_seconds)}.")
        if self.code is not None:
            lines.append(f"It ended with {self.code} (exit status {self.exit_status}).")
        lines += [f"{number:,} x {code}" for code, number in (self.failures or {}).items()]
        return "\n".join(lines)


def ending(
    output: str, at: float, summary: Summary, failures: Counter[tuple[str, str]], error: DifyBatchError | None
) -> Notification:
    """What is told at the end of a batch. A person is needed where rows failed or wait for one, or where the same
    command again would not help."""
    status = Exit.OK if error is None else error.exit_status
    by_code: Counter[str] = Counter()
    for (code, _), number in failures.items():
        by_code[code] += number
    waiting = summary.failed + summary.invalid + summary.unknown + summary.paused + summary.retry_waiting
    return Notification(
        event="needs_person" if waiting or status not in _NOBODY else "end",
        output=output,
        at=at,
        summary=summary.as_dict(),
        exit_status=int(status),
        code=error.code if error is not None else None,
        failures=dict(by_code.most_common(20)),
    )
