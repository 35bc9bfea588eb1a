"""All that a batch writes: results, `.retry`, `.paused`, journal.

Guarantees, whatever stops the process:
- before a POST its intent is durable (`await sent(...)`), so a run that may exist is never forgotten;
- a result line is durable before the journal says `done`, so a row is never called done without its result;
- `.retry` and `.paused` are replaced in one step, and can be told again from the journal if that was not reached.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

from dify_batch._version import __version__
from dify_batch.errors import StorageError
from dify_batch.ids import DONE, OPEN, PAUSED, IdIndex
from dify_batch.ledger import formats
from dify_batch.ledger.appendfile import AppendFile
from dify_batch.ledger.companions import Companions
from dify_batch.ledger.disk import PRIVATE, Disk
from dify_batch.ledger.formats import Paths, json_line
from dify_batch.ledger.held import Held
from dify_batch.ledger.setaside import set_aside as set_aside
from dify_batch.ledger.state import Phase, RowState, State
from dify_batch.ledger.writer import Writer
from dify_batch.outcomes import FailedNode, Paused, RunRef, RunResult, SettledRow
from dify_batch.seams import REAL, Seams
from dify_batch.summary import Notice
from dify_batch.text import count, listed
from dify_batch.usage import Use


def _nobody(row: SettledRow) -> None:
    """Nobody wants to know."""


class Ledger:
    """The open files of one batch. Methods that record return at once; `sent` and `flush` wait for the disk.

    Args:
        state: what `read_state` found; the ledger owns and updates it from now on.
        on_error: called once, with the StorageError, when a file cannot be written any more.
        on_row: called for each row that settles.
    """

    def __init__(
        self,
        paths: Paths,
        state: State,
        *,
        base_url: str,
        on_error: Callable[[StorageError], None],
        bom: bool = True,
        disk: Disk | None = None,
        seams: Seams = REAL,
        on_row: Callable[[SettledRow], None] | None = None,
    ) -> None:
        self.paths = paths
        self._on_row = on_row or _nobody
        self._clock = seams.clock
        self.state = state
        self.index: IdIndex = state.index
        self._base_url = base_url
        self._disk = disk or Disk()
        head = formats.BOM if bom else b""
        results = AppendFile.open(paths.results, self._disk, head=head)
        try:
            journal = AppendFile.open(paths.journal, self._disk, mode=PRIVATE)
        except BaseException:
            results.close()
            raise
        self._disk.sweep(paths.results.parent, {path.name for path in paths.all})
        self._writer = Writer(results, journal, on_error, seams.threads)
        self._not_finite: list[str] = []
        self._beside = Companions(
            paths,
            state,
            self._writer,
            self._disk,
            seams.clock,
            lambda count: self._line("retry_file", None, count=count),
        )

    # ---------------------------------------------------------------- what happened to the batch

    def begin(self, batch: str, **facts: Any) -> None:
        """The head of one invocation."""
        self._record(
            "batch", None, batch=batch, version=__version__, pid=os.getpid(), host=socket.gethostname(), **facts
        )

    def end(self, summary: Mapping[str, Any], reason: str, *, limit: tuple[int, str] | None = None) -> None:
        """The end of one invocation. `limit`: where --concurrency auto stood, and in which mode."""
        facts = {} if limit is None else {"limit": limit[0], "mode": limit[1]}
        self._record("end", None, reason=reason, summary=summary, **facts)

    def notices(self) -> list[Notice]:
        """What a person should know of the results that were written."""
        if not self._not_finite:
            return []
        rows = count(len(self._not_finite), "row", "rows")
        text = f"the outputs of {rows} hold NaN or an infinity, which JSON has not, so it is written as text: "
        return [Notice("not_finite", text + listed(self._not_finite))]

    # ---------------------------------------------------------------- what happened to a row

    def row(self, row_id: str) -> RowState:
        """The state of a row, made if the journal does not know it yet."""
        row = self.state.rows.get(row_id)
        if row is None:
            row = self.state.rows[row_id] = RowState()
        return row

    def next_attempt(self, row_id: str) -> int:
        """The number of the row's next POST, from 1."""
        return self.row(row_id).posts + 1

    async def sent(
        self, row_id: str, *, user: str, mode: str, server: float | None = None, trace: str = "", shared: bool = False
    ) -> int:
        """The intent of a POST. When it returns, the intent is durable. Gives the number of the POST, from 1.

        `server`: the server's own time, seconds since 1970, as far as it is known: look-ups compare the times of its
        log with it, whatever becomes of our clock. `trace`: its X-Trace-Id. `shared`: other rows may have its `user`,
        too.

        Raises:
            StorageError: it could not be written; the POST must not be sent.
        """
        row = self.row(row_id)
        facts: dict[str, Any] = {} if server is None else {"server": round(server, 3)}
        if trace:
            facts["trace"] = trace
        if shared:
            facts["shared"] = True
        self._note(row, "sent", row_id, attempt=row.posts + 1, user=user, mode=mode, **facts)
        self.index.add(row_id, OPEN)
        self._beside.forget(row_id)
        await self._writer.durable()
        return row.posts

    def started(self, row_id: str, ref: RunRef, *, found: bool = False, delay: float | None = None) -> None:
        """A run of the row is known. `found`: a look-up told it, not the answer. `delay`: seconds, POST to start."""
        extra: dict[str, Any] = {} if ref.conversation_id is None else {"conversation": ref.conversation_id}
        extra |= {"found": True} if found else {}
        if delay is not None:
            extra["delay"] = round(delay, 3)
        self.index.add(row_id, OPEN)
        self._beside.forget(row_id)
        self._note(self.row(row_id), "started", row_id, run=ref.run_id, task=ref.task_id, **extra)

    def unsent(self, row_id: str, reason: str) -> None:
        """The POST never left: refused connection, name not found, ..."""
        self._note(self.row(row_id), "unsent", row_id, reason=reason)
        self._not_open(row_id)

    def refused(self, row_id: str, reason: str) -> None:
        """The server answered that it makes no run now (throttled, or an error that stops the batch)."""
        self._note(self.row(row_id), "refused", row_id, reason=reason)
        self._not_open(row_id)

    def lost(self, row_id: str, reason: str) -> None:
        """The answer was lost. The intent stays open; this line is for whoever reads the journal."""
        self._record("lost", row_id, reason=reason)

    def absent(self, row_id: str, reason: str) -> None:
        """Looked up: the server has no run of that POST."""
        self._note(self.row(row_id), "absent", row_id, reason=reason)
        self._not_open(row_id)

    def succeeded(self, row_id: str, inputs: Mapping[str, Any], result: RunResult) -> None:
        """The row has its result."""
        self._know_run(row_id, result.ref)
        self._write_result(row_id, Held(self._result_line(row_id, inputs, result), result.ref.run_id, result.status))
        self._on_row(SettledRow(row_id, formats.STATUS_WORDS[result.status], result))

    def held(self, row_id: str, inputs: Mapping[str, Any], result: RunResult) -> Held:
        """The row has its result, which waits in the journal until its turn comes (`release`)."""
        self._know_run(row_id, result.ref)
        held = Held(self._result_line(row_id, inputs, result), result.ref.run_id, result.status)
        self._hold(row_id, held)
        self._on_row(SettledRow(row_id, formats.STATUS_WORDS[result.status], result))
        return held

    def copied(
        self, row_id: str, inputs: Mapping[str, Any], result: RunResult, *, first: str, waits: bool
    ) -> Held | None:
        """The row has the result of another, whose inputs are the same. `waits`: until its turn comes; it is given back
        then."""
        line = self._result_line(row_id, inputs, result, copy_of=first)
        held = Held(line, result.ref.run_id, result.status, first)
        self._hold(row_id, held) if waits else self._write_result(row_id, held)
        self._on_row(SettledRow(row_id, formats.STATUS_WORDS[result.status], result))
        return held if waits else None

    def _hold(self, row_id: str, held: Held) -> None:
        row = self.row(row_id)
        if row.phase is Phase.PAUSED:
            self._beside.paused_changed()
            self.index.remove(row_id, PAUSED)
        row.phase = Phase.HELD
        self._beside.forget(row_id)
        head = json_line({"event": "held", "id": row_id}, compact=True)[:-2]
        self._writer.record(head + b',"line":' + held.line[:-1] + b"}\n")

    def release(self, row_id: str, held: Held) -> None:
        """Writes a held result; its turn has come."""
        self._write_result(row_id, held)

    def _know_run(self, row_id: str, ref: RunRef) -> None:
        """A blocking answer tells the run together with its end. The journal has it before the next intent all the
        same: else, after a crash, a look-up could take the run for that of a later row with the same `user`."""
        if self.row(row_id).run_id != ref.run_id:
            self.started(row_id, ref)

    def _result_line(
        self, row_id: str, inputs: Mapping[str, Any], result: RunResult, copy_of: str | None = None
    ) -> bytes:
        row = self.row(row_id)
        own = copy_of is None
        return formats.result_line(
            row_id,
            inputs,
            result,
            retry_count=max(0, row.posts - 1),
            trace_id=(row.trace or None) if own else None,
            queue_time=row.queue_time if own else None,
            copy_of=copy_of,
            now=self._clock.wall(),
            not_finite=lambda: self._not_finite.append(row_id),
        )

    def _write_result(self, row_id: str, held: Held) -> None:
        facts = {"run": held.run_id, "status": formats.STATUS_WORDS.get(held.status, held.status)}
        facts |= {} if held.first is None else {"copy_of": held.first}
        self._writer.result(held.line, self._line("done", row_id, **facts))
        was = self.state.rows.pop(row_id, None)
        if was is not None and was.phase is Phase.PAUSED:
            self._beside.paused_changed()
        self.index.add(row_id, DONE)
        self.index.remove(row_id, OPEN | PAUSED)
        self._beside.forget(row_id)
        self.state.done += 1

    def spent(self, row_id: str, run_id: str, use: Use) -> None:
        """A run ended without a result, and what it used is paid for all the same."""
        if facts := use.record():
            self._record("spent", row_id, run=run_id, **facts)

    def kept(self, row_id: str, outputs: Any) -> None:
        """An answer that is no result, as it was cut off or misses --expect: for whoever reads the journal, and
        `export --failed`."""
        self._record("kept", row_id, outputs=outputs)

    def failed(
        self,
        row_id: str,
        *,
        kind: str,
        code: str,
        message: str,
        run_id: str | None = None,
        node: FailedNode | None = None,
    ) -> None:
        """The row ended without a result and can be replayed.

        `kind`: "failed" (the run ended so), "rejected", "stopped" (by the user), "unknown" (whether a run exists
        cannot be told), "invalid" (its inputs do not pass the checks, or its outputs those of
        --expect). `node`: where the run failed.
        """
        row = self.row(row_id)
        if row.phase is Phase.PAUSED:
            self._beside.paused_changed()
        facts: dict[str, Any] = {"run": run_id} if run_id else {}
        if node is not None:
            facts["node"] = node.as_dict()
        self._note(row, "failed", row_id, kind=kind, code=code, message=message, **facts)
        row.message, row.node = "", None  # the journal has it; a million failures need not be in memory
        self.index.remove(row_id, OPEN | PAUSED)
        self._beside.take(row_id)
        self._beside.tidy()
        self._on_row(SettledRow(row_id, kind, code=code, message=message, node=node))

    def news(self, row_id: str, paused: Paused) -> bool:
        """Whether a paused run waits for another form than the one that is known."""
        known = {form.get("form_token") for form in self.row(row_id).forms}
        return bool(paused.forms) and {form.token for form in paused.forms} != known

    def paused(self, row_id: str, paused: Paused) -> None:
        """The row's run waits for a person."""
        row = self.row(row_id)
        forms = formats.forms_shown(paused.forms, self._base_url, row.user) or row.forms
        self._note(row, "paused", row_id, run=paused.ref.run_id, task=paused.ref.task_id or row.task_id, forms=forms)
        self.index.add(row_id, OPEN | PAUSED)
        self._beside.forget(row_id)
        self._beside.paused_changed()
        self._beside.tidy()
        self._on_row(SettledRow(row_id, "paused"))

    def answering(self, row_id: str, *, token: str, action: str, inputs: Mapping[str, Any], user: str) -> None:
        """A person's answer to a form; to be durable (`flush`) before it is sent."""
        self._record("answer", row_id, form=token, action=action, inputs=inputs, user=user)

    def answered(self, row_id: str, *, token: str, how: str) -> None:
        """What became of that answer: "sent", "elsewhere" (somebody answered before), or why it was refused."""
        self._record("answered", row_id, form=token, how=how)

    # ---------------------------------------------------------------- the disk

    def probably_dead(self, row_id: str) -> None:
        """What executes its run was away, and it has said running ever since."""
        row = self.row(row_id)
        self._note(row, "probably_dead", row_id, run=row.run_id)

    async def flush(self) -> None:
        """Makes all of it durable, `.retry` and `.paused` included. Raises StorageError."""
        self._beside.tidy(now=True)
        await self._writer.flush()

    async def close(self) -> None:
        """Flushes and closes. Raises StorageError if something that was known could not be written."""
        try:
            if self._writer.error is None:
                self._beside.tidy(now=True)
        finally:
            await self._writer.close()

    def _note(self, row: RowState, event: str, row_id: str, **facts: Any) -> None:
        record = {"event": event, "id": row_id, **facts, "at": formats.utc(self._clock.wall(), milliseconds=True)}
        row.apply(record)
        self._writer.record(json_line(record, compact=True))

    def _record(self, event: str, row_id: str | None, **facts: Any) -> None:
        self._writer.record(self._line(event, row_id, **facts))

    def _line(self, event: str, row_id: str | None, **facts: Any) -> bytes:
        head = {"event": event} if row_id is None else {"event": event, "id": row_id}
        return json_line(head | facts | {"at": formats.utc(self._clock.wall(), milliseconds=True)}, compact=True)

    def _not_open(self, row_id: str) -> None:
        """No run of the row exists now. A row that was being replayed is in `.retry` again."""
        self.index.remove(row_id, OPEN)
        if self.row(row_id).phase is Phase.FAILED:
            self._beside.take(row_id)
