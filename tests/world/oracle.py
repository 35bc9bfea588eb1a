"""What must hold after each invocation, whatever happened.

It knows the files (`reader`) and the server's ledger only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.world.history import Invocation
from tests.world.person import Desk
from tests.world.process import Ended
from tests.world.reader import Files, read
from tests.world.server import KEY, Execution

SUCCEEDED = ("succeeded", "partial-succeeded")
NEVER_ENDED = ("db_down_at_end",)


@dataclass(frozen=True)
class Violation:
    """`kind` is what the shrinker keeps the same; `text` is for people."""

    kind: str
    text: str


@dataclass(frozen=True)
class Span:
    """When an invocation ran, and what it was asked."""

    number: int
    invocation: Invocation
    began: float
    ended: float

    @property
    def flags(self) -> dict[str, Any]:
        return dict(self.invocation.flags)

    @property
    def may_repeat_anything(self) -> bool:
        return self.flags.get("retry_policy") == "all" or bool(self.flags.get("retry_unknown"))

    def has(self, run: Execution) -> bool:
        """Whether it sent the request of a run."""
        return self.began <= run.posted <= self.ended


class Oracle:
    """`desk`: where the files are. `ledger`: what the server executed, kept up by the world."""

    def __init__(self, desk: Desk, ledger: Sequence[Execution]) -> None:
        self._desk = desk
        self._ledger = ledger
        self.spans: list[Span] = []
        self._posts: dict[str, int] = {}

    def after(self, span: Span, ended: Ended) -> list[Violation]:
        """Everything that is wrong after an invocation."""
        self.spans.append(span)
        files = read(self._desk.output)
        found = list(self._ending(span, ended))
        found += self._executions()
        found += self._results(files)
        found += self._secrets()
        if ended.how == "exit" and ended.summary is not None:
            found += self._told(span, ended, files)
        found += self._at_once(span, files)
        return found

    # --- the end itself

    def _ending(self, span: Span, ended: Ended) -> Iterable[Violation]:
        if ended.how == "late":
            yield Violation("late", f"invocation {span.number} did not end in {span.ended - span.began:.0f} s")
        if ended.how == "crash" or ended.error == "unknown" or "internal error" in ended.message:
            yield Violation("crash", f"invocation {span.number}: {ended.error} {ended.message}")

    # --- never twice

    def _executions(self) -> Iterable[Violation]:
        by_row: dict[str, list[Execution]] = {}
        fresh = max((span.began for span in self.spans if span.flags.get("overwrite")), default=0.0)
        for execution in self._ledger:
            if execution.posted >= fresh:  # what was sent before the person asked to start over does not count
                by_row.setdefault(execution.row, []).append(execution)
        for row, runs in by_row.items():
            for nth in range(1, len(runs)):
                if not self._asked(runs[nth], runs[:nth]):
                    times = ", ".join(f"{run.begun:.1f} (posted {run.posted:.1f}, {run.status})" for run in runs)
                    yield Violation("twice", f"row {row} was executed {len(runs)} times: {times}")
                    break

    def _asked(self, again: Execution, before: Sequence[Execution]) -> bool:
        """Whether the person asked for another execution: a policy or flag of the invocation that sent it, or --retry
        of a row whose runs had all failed, or are dead."""
        span = next((s for s in reversed(self.spans) if s.has(again)), None)
        if span is None:
            return False
        if any(asked.may_repeat_anything and asked.has(run) for asked in self.spans for run in (*before, again)):
            return True  # of several POSTs that were sent all the same, only the last is looked up
        if any(asked.flags.get("rerun_changed") for asked in self.spans if asked.number <= span.number):
            before = [run for run in before if run.inputs == again.inputs]
        if not before:
            return True
        if not all(_over_and_failed(run, again.posted) for run in before):
            return False
        # Asked once, it may take more than one invocation: what --retry had sent may have been lost.
        since = max((run.begun if run.ended is None else run.ended for run in before), default=0.0)
        if any(asked.flags.get("retry") and asked.ended >= since for asked in self.spans):
            return True
        dead = any(run.dead for run in before)  # its row is unknown, and goes no second time by itself
        return not dead and any(asked.flags.get("retry_pass") and asked.ended >= since for asked in self.spans)

    # --- each result is its row's own

    def _results(self, files: Files) -> Iterable[Violation]:
        if files.bad:
            yield Violation("files", "; ".join(files.bad))
        if files.twice:
            yield Violation("files", f"ids that stand twice in the results: {files.twice}")
        early = [row for row, place in files.place.items() if place == "done" and row not in files.done]
        if early and not self._results_edited():
            yield Violation("files", f"the journal says done, and the results lack {early}")
        runs = {name: run for run in self._ledger for name in (run.run_id, *run.names)}
        for line in files.results:
            run = runs.get(line["workflow_run_id"])
            row = line.get("copy_of", line["id"])  # --dedupe: the run is that of a row with the same inputs
            if run is None or run.row != row:
                owner = None if run is None else run.row
                yield Violation("mixed", f"the result of {row} is of a run of {owner}")
                continue
            sent = json.loads(run.inputs)
            if row != line["id"]:
                sent["id"] = line["id"]
            if any(line["inputs"].get(name) != value for name, value in sent.items()):
                yield Violation("mixed", f"the result of {row} has inputs that were not sent: {line['inputs']}")
            given = json.loads(run.outputs)
            names = ("conversation_id", "message_id")
            told = {name: value for name, value in line["outputs"].items() if name not in names}
            if "answer" in given and len(told) < len(given):  # a message that was looked up has its answer alone
                given = {"answer": given["answer"]}
            if run.status in SUCCEEDED and told != given:
                yield Violation("mixed", f"the result of {row} has other outputs: {line['outputs']}")
            looked_up = line["workflow_run_id"] != run.run_id  # then nothing tells that it was stopped
            if run.status not in (*SUCCEEDED, None) and not (looked_up and run.status == "stopped"):
                yield Violation("mixed", f"{row} has a result, and its run {run.status}")

    def _results_edited(self) -> bool:
        """Whether a person has taken a result away."""
        return any(edit.what == "results_lose" for span in self.spans for edit in span.invocation.edits)

    def _secrets(self) -> Iterable[Violation]:
        for path in self._desk.folder.iterdir():
            if path.is_file() and KEY.encode() in path.read_bytes():
                yield Violation("secret", f"the key stands in {path.name}")

    # --- each row in one state, as status and summary say

    def _told(self, span: Span, ended: Ended, files: Files) -> Iterable[Violation]:
        summary = ended.summary
        assert summary is not None
        where = {row: files.where(row) for row in self._desk.table}
        count = {place: sum(1 for at in where.values() if at == place) for place in set(where.values())}
        told = {
            "done": summary.done_before + summary.success + summary.partial_success,
            "retry": summary.failed + summary.invalid + summary.unknown + summary.retry_waiting,
            "paused": summary.paused,
            "open": summary.running,
            "untouched": summary.untouched,
        }
        if ended.error == "storage_failed":
            return  # what could be written was
        if files.torn:
            yield Violation("files", f"torn after an orderly end: {files.torn}")
        wrong = {
            place: (number, count.get(place, 0)) for place, number in told.items() if number != count.get(place, 0)
        }
        if wrong or summary.rows != len(where):
            yield Violation("summary", f"invocation {span.number} tells (told, there): {wrong}; {where}")
        waiting = [row for row, place in where.items() if place == "retry" and row not in files.retry]
        if waiting:
            yield Violation("summary", f"rows that failed are not in .retry: {waiting}")
        both = [row for row in files.retry if files.where(row) in ("done", "open", "paused")]
        if both:
            yield Violation("summary", f"rows are in .retry and elsewhere: {[(r, files.where(r)) for r in both]}")
        waits = span.flags.get("dedupe") and count.get("paused")  # copies of a paused row wait with it
        some = span.flags.get("retry") or span.flags.get("limit") or waits
        unfinished = count.get("open", 0) + (0 if some else count.get("untouched", 0))
        if ended.status == 0 and (unfinished or count.get("retry", 0)):
            yield Violation("status", f"invocation {span.number} ends with 0, and {where}")
        if ended.error == "rows_failed" and not count.get("retry", 0):
            yield Violation("status", f"invocation {span.number} ends with 1 ({ended.error}), and {where}")

    # --- never more than -c at once

    def _at_once(self, span: Span, files: Files) -> Iterable[Violation]:
        """Runs that the command knows of. One whose answer was lost is nobody's until it is found, and holds no place:
        else those that never began would hold theirs for ever."""
        limit = span.flags.get("concurrency", 5)
        if not isinstance(limit, int):
            return
        lost, known = set[str](), set[str]()
        for record in files.journal:
            if record["event"] == "lost" or record.get("found"):
                lost.add(record["id"])
            elif record["event"] == "started":
                known.add(record["run"])
        runs = [run for run in self._ledger if run.row not in lost and not run.dead and not run.pauses]
        for run in runs:
            if not span.began <= run.posted <= span.ended:
                continue
            at = run.begun
            others = [
                other
                for other in runs
                if other.begun <= at
                and (other.ended is None or other.ended > at)
                and (other.posted >= span.began or other.run_id in known)
            ]
            if len(others) > limit:
                rows = ", ".join(f"{other.row} since {other.begun:.1f}" for other in others)
                yield Violation("at once", f"{len(others)} runs at once at {at:.1f} with -c {limit}: {rows}")
                return

    # --- at the very end

    def left(self) -> dict[str, str]:
        """The rows that have no result, and where they are."""
        files = read(self._desk.output)
        return {row: files.where(row) for row in self._desk.table if files.where(row) != "done"}

    def at_last(self, *, forgot: bool, unlisted: bool = False) -> list[Violation]:
        """Faults have ceased, the command was run again, and once with --retry. `forgot`: the server has forgotten
        runs, so that what became of some rows cannot be known any more. `unlisted`: nor of any lost request, as there
        is no list of them."""
        left = self.left()
        if not left:
            return []
        files = read(self._desk.output)
        why = {
            record["id"]: f"{record.get('kind')}/{record.get('code')}: {record.get('message')}"
            for record in files.journal
            if record.get("event") == "failed"
        }
        unknowable = ["is truly empty"]  # a chat's answer that stays empty may have been its answer
        if forgot or unlisted:
            unknowable += ["run_not_found", "does not reach back", *(["lists no answers"] if unlisted else [])]
        left = {row: at for row, at in left.items() if not any(word in why.get(row, "") for word in unknowable)}
        if not left:
            return []
        return [
            Violation(
                "lost", f"rows have no result in the end: { {row: (at, why.get(row)) for row, at in left.items()} }"
            )
        ]

    def stories(self) -> dict[str, list[str]]:
        """What journal and server say of each row."""
        told: dict[str, list[str]] = {}
        for record in read(self._desk.output).journal:
            if isinstance(row := record.get("id"), str):
                facts = {name: value for name, value in record.items() if name not in ("id", "at", "event", "line")}
                told.setdefault(row, []).append(f"journal {record.get('at', '')[11:23]} {record['event']} {facts}")
        for run in self._ledger:
            end = "goes on" if run.ended is None else f"{run.status} at {run.ended:.1f}"
            dead = ", dead" if run.dead else ""
            told.setdefault(run.row, []).append(
                f"server  posted at {run.posted:.1f}, begun at {run.begun:.1f}, {end}{dead} ({run.mode}, {run.run_id})"
            )
        return told

    def state(self) -> str:
        """The end state, to count how many different ones were reached."""
        files = read(self._desk.output)
        return json.dumps([sorted(files.where(row) for row in self._desk.table), len(self._ledger)])


def _over_and_failed(run: Execution, at: float) -> bool:
    if run.dead:
        return True
    return run.ended is not None and run.ended <= at and run.status not in SUCCEEDED


def folder_of(path: Path) -> list[str]:
    return sorted(item.name for item in path.iterdir())
