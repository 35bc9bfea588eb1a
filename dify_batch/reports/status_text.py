"""A status as text for people, and what to type next. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from dify_batch.ledger import formats
from dify_batch.ledger.shards import part_of
from dify_batch.reports.nextsteps import Call, Left, steps
from dify_batch.reports.standing import Holder, LastBatch, Parts, Standing
from dify_batch.text import count, duration, listed, one_line, plural, printable
from dify_batch.usage import price_text, times_text

SHOWN = 10  # paused rows and runs in flight in the text; the machine output has all of them

UNKNOWN_MEANS = (
    "unknown means: the request was sent, and neither its answer nor the server's log tells whether a run started. "
    "Look for it in Dify's log; --retry looks it up once more and sends it only if that finds nothing."
)


def next_steps(report: Standing, *, running: bool) -> Iterator[str]:
    """Sentences that end with what to type."""
    batch = report.batch
    source = batch.input if batch and batch.input else "data.csv"
    flags = batch.again if batch else ()
    call = Call(source, typed(report.output, flags), flags, report.output)
    if report.parts is not None:
        call = Call(source, report.output, any_part(flags, report.parts.of), report.parts.paused_in)
    answerable = sum(not row.expired for row in report.paused)
    if running:
        assert report.holder is not None
        if report.holder.alive is None:
            yield f"whether it still runs, {report.holder.host} knows: ps -p {report.holder.pid}"
        else:
            yield f"a batch is under way: let it end, or stop it gently with: kill {report.holder.pid}"
        yield from (step.one_line() for step in steps(call, Left(to_answer=answerable)))
        return
    killed = batch is not None and batch.ended_at is None
    left = Left(
        to_retry=report.to_retry - len(report.retry_unknown),
        to_answer=answerable,
        expired=len(report.paused) - answerable,
        under_way=len(report.in_flight) + report.held,
        dead=sum(flight.probably_dead_since is not None for flight in report.in_flight),
        untouched=(batch.untouched or 0) if batch else 0,
        killed=killed,
    )
    yield from (step.one_line() for step in steps(call, left))
    if report.parts is not None and report.parts.not_begun:
        missing = report.parts.not_begun
        yield (
            f"{count(len(missing), 'part has', 'parts have')} not begun; each is run by: "
            + Call(source, report.output, any_part(flags, report.parts.of)).again()
        )
    if batch is not None and batch.left_out:
        yield (
            f"{count(batch.left_out, 'row')} of the input could not be read in the last batch: correct the input, and "
            f"run the same command again"
        )
    if report.retry_unknown:
        are = plural(len(report.retry_unknown), "id was", "ids were")
        yield (
            f"{len(report.retry_unknown):,} {are} never sent: {listed(report.retry_unknown, SHOWN)}; "
            f"take out of {report.output}.retry what is not in {'the input' if source == '-' else source}"
        )


def typed(output: str, flags: Sequence[str]) -> str:
    """The -o of the command that wrote an output: a part has a file of its own."""
    base, shard = part_of(Path(output))
    return str(base) if shard is not None and {"--shard", "--workers"} & set(flags) else output


def any_part(flags: Sequence[str], of: int) -> list[str]:
    """The flags of one part as those of any: whoever pastes them puts a number in."""
    words = list(flags)
    if "--shard" in words:
        words[words.index("--shard") + 1] = f"I/{of}"
    return words


@dataclass(slots=True)
class _List:
    """A list in the text that is cut at SHOWN."""

    lines: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, *lines: str) -> None:
        self.count += 1
        if self.count <= SHOWN:
            self.lines.extend(lines)

    def whole(self, title: str) -> list[str]:
        more = [f"  and {self.count - SHOWN:,} more (all of them: --json)"] if self.count > SHOWN else []
        return [title, *self.lines, *more] if self.count else []


def text_of(report: Standing) -> str:
    """The report for people; safe to show whatever a server wrote."""
    return "\n".join(printable(line) for line in _lines(report))


def _lines(report: Standing) -> Iterator[str]:
    counts = [f"{report.done:,} done" + (f" ({report.partial_success:,} in part)" if report.partial_success else "")]
    open_rows = (
        (report.failed, "failed"),
        (report.invalid, "invalid"),
        (report.unknown, "unknown"),
        (report.retry_waiting, "added to .retry by hand"),
        (len(report.paused), "paused"),
        (len(report.in_flight), "in flight"),
        (report.held, "held for their turn"),
    )
    counts += [f"{count:,} {name}" for count, name in open_rows if count]
    in_parts = "" if report.parts is None else f" ({count(report.parts.of, 'part')})"
    yield f"{report.output}{in_parts}: {', '.join(counts)}"
    if report.parts is not None:
        yield from _part_lines(report.parts)
    used = [f"{report.total_tokens:,} tokens"] if report.total_tokens else []
    used += [price_text({currency: Decimal(price) for currency, price in report.total_price.items()})]
    if used := [text for text in used if text]:
        yield f"Used: {', '.join(used)}"
    if times := times_text(report.run_time, report.queue_time):
        yield times[0].upper() + times[1:]
    if report.batch is not None:
        yield _batch_line(report.batch, report.holder)
    elif report.holder is not None:
        yield f"Written by {_who(report.holder)}"
    if report.failures:
        yield "Failed:"
        for group in report.failures:
            name = f"{group.kind}, " if group.kind in ("unknown", "invalid") else ""
            yield f"  {group.count:,} x {name}{one_line(group.code)}: {one_line(group.message, 300)}"
            if group.nodes:
                yield f"      at the node {', '.join(one_line(node) for node in group.nodes)}"
            more = ", …" if group.count > len(group.examples) else ""
            yield f"      {', '.join(one_line(row_id) for row_id in group.examples)}{more}"
        if report.other_failures:
            yield f"  {report.other_failures:,} more of other kinds"
    if report.unknown:
        yield UNKNOWN_MEANS
    paused = _List()
    for row in report.paused:
        state = "expired" if row.expired else "expires" if row.expires_at else "waits"
        when = f" {row.expires_at}" if row.expires_at else ""
        forms = [f"      {how}" for form in row.forms if (how := _how_to_answer(form))]
        paused.add(f"  {one_line(row.id)}  {state}{when}  run {row.workflow_run_id}", *([] if row.expired else forms))
    yield from paused.whole("Paused, waiting for a person:")
    flying = _List()
    for flight in report.in_flight:
        run = f"run {flight.workflow_run_id}" if flight.workflow_run_id else "sent, no run known yet"
        dead = f", probably dead since {flight.probably_dead_since}" if flight.probably_dead_since else ""
        flying.add(f"  {one_line(flight.id)}  {run}  since {flight.since}{dead}")
    yield from flying.whole("In flight:")
    for warning in report.warnings:
        yield f"Warning: {one_line(warning, 300)}"
    if report.next_steps:
        yield "Next:"
        yield from (f"  {step}" for step in report.next_steps)
    elif not report.warnings:
        one = "" if report.parts is None else f" For one file: dify-batch merge {report.output} -o all.jsonl"
        yield f"Nothing left to do.{one}"


def _part_lines(parts: Parts) -> Iterator[str]:
    for numbers, what in ((parts.running, "under way"), (parts.not_begun, "not begun")):
        if numbers:
            yield f"  {count(len(numbers), 'part')} {what}: {listed([str(number) for number in numbers], SHOWN)}"


def _how_to_answer(form: dict[str, Any]) -> str:
    how = str(form.get("answer_with") or form.get("form_token") or "")
    actions = [str(action) for action in form.get("actions") or ()]
    body = json.dumps(form["answer_body"], ensure_ascii=False) if form.get("answer_body") else ""
    more = f" {one_line(body, 300)}" if body else ""
    return one_line(how, 300) + more + (f"  actions: {one_line(', '.join(actions))}" if how and actions else "")


def _batch_line(batch: LastBatch, holder: Holder | None) -> str:
    line = f"Last batch: {batch.input}, begun {batch.started_at}"
    if holder is not None and holder.alive is not False:
        return f"{line}, being written by {_who(holder)}"
    if batch.ended_at is None:
        return f"{line}; it was killed or cut off" + (f" (process {holder.pid} is gone)" if holder else "")
    try:
        took = f" after {duration(formats.from_utc(batch.ended_at) - formats.from_utc(batch.started_at))}"
    except ValueError:
        took = ""
    return f"{line}, ended{took}: {_why(batch)}"


_REASONS = {
    "rows_failed": "some rows have no result",
    "batch_stopped": "stopped by --max-failures or --max-outage, or as all answers missed --expect",
    "budget_reached": "stopped by --max-tokens or --max-cost",
    "not_finished": "not finished",
    "input_changed": "the input was changed meanwhile",
    "interrupted": "stopped by Ctrl-C (SIGINT)",
    "terminated": "stopped by SIGTERM",
    "rate_limited": "stopped by a rate limit or a quota",
    "network_connection": "the server could not be reached",
    "auth_expired": "the server refused the API key",
    "access_denied": "the server refused access",
    "server_5xx": "the server answered with an error",
    "server_4xx_other": "the app could not run",
    "storage_failed": "a file could not be written",
    "invalid_csv": "the input was changed meanwhile",
    "unknown": "an unexpected error",
}
"""The codes that the journal's end record holds, in words."""


def _why(batch: LastBatch) -> str:
    if batch.reason != "finished":
        return _REASONS.get(batch.reason or "", one_line(batch.reason or "").replace("_", " "))
    left = f"; {count(batch.untouched, 'row')} not sent yet" if batch.untouched else ""
    return f"finished what it was asked to do{left}" if left else "finished"


def _who(holder: Holder) -> str:
    doubt = " (or was, if that has been killed)" if holder.alive is None else ""
    return f"process {holder.pid} on {holder.host}{doubt}"
