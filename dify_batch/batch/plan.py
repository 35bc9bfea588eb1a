"""What a batch is going to do: for `--dry-run`, and for the count of rows at its start."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dify_batch.batch.share import Share
from dify_batch.batch.surface import Target
from dify_batch.engine.work import Work
from dify_batch.errors import UsageError
from dify_batch.estimate import Estimate, estimate
from dify_batch.ids import DONE, IN_INPUT, INVALID, OPEN, PAUSED, RETRY, IdIndex
from dify_batch.input.files import described
from dify_batch.ledger.drawn import drawn
from dify_batch.ledger.formats import Paths
from dify_batch.ledger.shards import outputs_of
from dify_batch.summary import Notice
from dify_batch.text import count, show


@dataclass(frozen=True, slots=True)
class Plan:
    """Counts of rows; `copies`: those that share the run of another (--dedupe), so that so many runs are saved.
    `seconds`, `tokens`, `price` (currency → amount) are estimates for the rows to run, None or empty where no earlier
    run tells; `estimate` has them with their ranges."""

    rows: int
    done: int
    to_run: int
    retry_waiting: int
    to_collect: int
    paused: int
    invalid: int
    copies: int
    concurrency: int | str
    rate: float | None
    wait: float
    mode: str
    seconds: float | None
    tokens: int | None
    price: Mapping[str, str]
    payloads: tuple[dict[str, Any], ...]
    warnings: tuple[Notice, ...]
    estimate: Estimate | None = None

    def as_dict(self) -> dict[str, Any]:
        estimate = None if self.estimate is None else self.estimate.as_dict()
        return asdict(self) | {"estimate": estimate}

    def text(self) -> str:
        """The plan for people."""
        pace = (
            f"{self.concurrency} at a time" if self.concurrency != "auto" else "as many at a time as the server can do"
        )
        if self.rate is not None:
            pace += f", at most {self.rate:g} a second"
        if self.wait:
            pace += f", {self.wait:g} s between requests"
        lines = [
            f"{count(self.rows, 'row')} in the input: "
            f"{self.to_run:,} to run, {self.done:,} done, "
            f"{self.retry_waiting} waiting for --retry, {self.to_collect} runs to collect, {self.paused} paused"
            + (f", {self.invalid} invalid" if self.invalid else ""),
            f"mode {self.mode}, {pace}",
        ]
        if self.copies:
            have = count(self.copies, "row has", "rows have")
            saved = count(self.copies, "run is", "runs are")
            lines.append(f"{have} the inputs of another and will share its result: {saved} saved")
        if self.estimate is not None and (text := self.estimate.text()):
            lines.append(text)
        lines += [f"warning: {warning.message}" for warning in self.warnings]
        if self.payloads:
            lines.append(f"first {len(self.payloads)} of {self.to_run} payloads:")
            lines += [json.dumps(payload, ensure_ascii=False) for payload in self.payloads]
        lines.append("nothing was sent")
        return "\n".join(lines)


def files_root(root: Path | None) -> Path | None:
    """The folder of --files-root. Raises UsageError where there is none."""
    if root is not None and not root.is_dir():
        raise UsageError(
            f"--files-root: {show(str(root), 200)} is no folder", hint="name a folder", code="usage_invalid_flag"
        )
    return root


def selected(
    index: IdIndex, limit: int | None, wanted: frozenset[str] | None, chosen: frozenset[str] | None = None
) -> int:
    """How many rows this invocation would send. `limit`: at most; `wanted`: the ids that --retry replays; `chosen`:
    those of --ids and --sample."""
    barred = DONE | OPEN | RETRY | INVALID
    if wanted is not None:
        found = wanted if chosen is None else wanted & chosen
        number = sum(1 for row_id in found if index.has(row_id, IN_INPUT) and not index.has(row_id, INVALID))
    elif chosen is not None:
        number = sum(1 for row_id in chosen if not index.has(row_id, barred))
    else:
        number = sum(1 for row_id in index.ids(IN_INPUT) if not index.has(row_id, barred))
    return number if limit is None else min(number, limit)


def make_plan(
    index: IdIndex,
    target: Target,
    share: Share,
    *,
    to_run: int,
    copies: int,
    first: list[Work],
    warnings: tuple[Notice, ...],
) -> Plan:
    """The plan of a checked input. `first`: its first items, whose payloads are shown."""
    settings = target.settings
    counts = {"rows": 0, "done": 0, "retry": 0, "open": 0, "paused": 0, "invalid": 0}
    for row_id in index.ids(IN_INPUT):
        flags = index.flags(row_id)
        counts["rows"] += 1
        if flags & DONE:
            counts["done"] += 1
        elif flags & PAUSED:
            counts["paused"] += 1
        elif flags & OPEN:
            counts["open"] += 1
        elif flags & INVALID:
            counts["invalid"] += 1
        elif flags & RETRY:
            counts["retry"] += 1
    expected = rest(settings.results, share, to_run)
    told = {} if expected is None else expected.as_dict()
    tokens, seconds = told.get("tokens"), told.get("seconds")
    return Plan(
        rows=counts["rows"],
        done=counts["done"],
        to_run=to_run,
        retry_waiting=0 if settings.retry else counts["retry"],
        to_collect=counts["open"],
        paused=counts["paused"],
        invalid=counts["invalid"],
        copies=copies,
        concurrency=share.concurrency,
        rate=share.rate,
        wait=share.wait,
        mode=target.mode,
        seconds=seconds and seconds["likely"],
        tokens=tokens and tokens["likely"],
        price={currency: price["likely"] for currency, price in told.get("price", {}).items()},
        payloads=tuple(_payload(item, target) for item in first),
        warnings=warnings,
        estimate=expected,
    )


def rest(output: Path, share: Share, rows: int, *, limit: int = 0) -> Estimate | None:
    """What so many rows more would take, by those of the output, or of its parts, that are through. `limit`: what
    --concurrency auto stands at. Raises StorageError, UsageError."""
    places = share.concurrency if isinstance(share.concurrency, int) else limit or None
    return estimate(drawn(map(Paths.of, outputs_of(output))), rows, places=places, rate=share.rate, wait=share.wait)


def _payload(work: Work, target: Target) -> dict[str, Any]:
    files = None if work.inputs is None or work.inputs.files is None else described(work.inputs.files)
    return target.payload(described(work.values), files)
