"""A batch as a list of moves, told to a ledger, with the places where each row may be found afterwards.

The oracle: a row's place is the one that was last durable, or any that was recorded since. What makes places durable
is that `sent` or `flush` returned; a result only `flush`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from dify_batch import ids
from dify_batch.errors import StorageError
from dify_batch.ids import DONE as DONE_FLAG
from dify_batch.ids import IdIndex, parse_ids
from dify_batch.ledger.disk import Disk
from dify_batch.ledger.formats import Paths
from dify_batch.ledger.held import Held
from dify_batch.ledger.state import Phase, read_state
from dify_batch.ledger.store import Ledger
from dify_batch.outcomes import Paused, PausedForm, RunRef, RunResult
from tests.support.harness import places, results

FREE, RUNNING, DONE, RETRY, PAUSED = "free", "running", "done", "retry", "paused"

# What may follow what, for one row.
MOVES: dict[str, tuple[str, ...]] = {
    "free": ("sent", "invalid"),
    "failed": ("sent",),
    "sent": ("started", "unsent", "refused", "lost", "succeeded", "rejected", "paused", "held"),
    "lost": ("found", "absent", "unknown"),
    "started": ("succeeded", "held", "broken", "paused"),
    "paused": ("succeeded", "held", "broken"),
    "held": ("release",),
    "done": (),
}
FORM = PausedForm("token", "node", "Is it so?", ("yes", "no"), (), 1_700_000_000)


class Story:
    """Tells moves to the ledger of one output and remembers what it may be held to."""

    def __init__(self, output: Path, rows: Iterable[str]) -> None:
        self.output = output
        self.paths = Paths.of(output)
        self.now: dict[str, str] = dict.fromkeys(rows, "free")
        self.may_be: dict[str, list[str]] = {row: [FREE] for row in self.now}
        self.ever: dict[str, set[str]] = {row: {FREE} for row in self.now}
        self.runs: dict[str, str] = {}
        self.errors: list[StorageError] = []
        self._was_failed: set[str] = set()
        self._held: dict[str, Held] = {}
        self._posts = 0

    def open(self, disk: Disk | None = None) -> Ledger:
        state = read_state(self.paths)
        return Ledger(self.paths, state, base_url="http://x/v1", on_error=self.errors.append, disk=disk)

    async def tell(self, moves: Sequence[tuple[str, str]], disk: Disk | None = None) -> None:
        """Opens the ledger, plays the moves and closes it. Raises StorageError."""
        ledger = self.open(disk)
        try:
            ledger.begin("b1")
            for row, move in moves:
                await self._play(ledger, row, move)
            ledger.end({}, "finished")
        finally:
            settled = self._mark()
            await ledger.close()
            self._settle(settled)

    def resume(self, now: dict[str, str]) -> None:
        """The next invocation has found the rows in these states."""
        places_of = {"free": FREE, "started": RUNNING, "done": DONE, "failed": RETRY, "paused": PAUSED}
        self.now.update(now)
        self.may_be.update({row: [places_of[state]] for row, state in now.items()})
        self._was_failed = {row for row, state in now.items() if state == "failed"}
        self._held.clear()
        state = read_state(self.paths)
        self.runs.update({row: known.run_id for row, known in state.rows.items() if known.run_id})

    def _mark(self) -> dict[str, int]:
        return {row: len(history) - 1 for row, history in self.may_be.items()}

    def _settle(self, mark: dict[str, int], *, results: bool = True) -> None:
        """What was marked is durable now, with its results or without."""
        for row, number in mark.items():
            before = 0 if results or self.may_be[row][number] != DONE else 1
            del self.may_be[row][: max(0, number - before)]

    def _at(self, row: str, state: str, place: str) -> None:
        self.now[row] = state
        self.may_be[row].append(place)
        self.ever[row].add(place)

    async def _play(self, ledger: Ledger, row: str, move: str) -> None:
        if move == "flush":
            mark = self._mark()
            await ledger.flush()
            self._settle(mark)
            return
        run = self.runs.get(row, "")
        if move == "sent":
            self._posts += 1
            self.runs[row] = f"run-{row}-{self._posts}"
            self._at(row, "sent", RUNNING)
            mark = self._mark()
            await ledger.sent(row, user=f"u-{row}", mode="streaming")
            self._settle(mark, results=False)
            return
        ref = RunRef(run, f"task-{run}")
        result = RunResult(ref, "succeeded", {"answer": f"é {row}\u2028" * 3}, None, 1.5, 7, 3, 1_700_000_000)
        rest = ("failed", RETRY) if row in self._was_failed else ("free", FREE)
        match move:
            case "started" | "found":
                ledger.started(row, ref, found=move == "found")
                self._was_failed.discard(row)
                self._at(row, "started", RUNNING)
            case "unsent" | "refused" | "absent":
                getattr(ledger, move)(row, "why")
                self._at(row, *rest)
            case "lost":
                ledger.lost(row, "cut")
                self._at(row, "lost", RUNNING)
            case "succeeded":
                ledger.succeeded(row, {"id": row}, result)
                self._at(row, "done", DONE)
            case "held":
                self._held[row] = ledger.held(row, {"id": row}, result)
                self._at(row, "held", RUNNING)
            case "release":
                ledger.release(row, self._held.pop(row))
                self._at(row, "done", DONE)
            case "paused":
                ledger.paused(row, Paused(ref, (FORM,)))
                self._at(row, "paused", PAUSED)
            case "broken":
                ledger.failed(row, kind="failed", code="run_failed", message="no", run_id=run)
            case "rejected" | "unknown" | "invalid":
                ledger.failed(row, kind=move, code=move, message="no")
            case _:
                raise AssertionError(move)
        if move in ("broken", "rejected", "unknown", "invalid"):
            self._was_failed.add(row)
            self._at(row, "failed", RETRY)

    # ---------------------------------------------------------------- what must hold

    def check(self) -> dict[str, str]:
        """By the files as they are: each row is where it may be. Gives the places."""
        found = where(self.output, self.now)
        for row, place in found.items():
            assert place in self.may_be[row], f"{row} is {place}, may be {self.may_be[row]}, was {self.now[row]}"
        self.check_runs()
        return found

    def check_runs(self) -> None:
        """A run id that the files give for a row is one that the row had."""
        state = read_state(self.paths)
        for row, known in state.rows.items():
            if known.run_id is not None:
                assert known.run_id.startswith(f"run-{row}-")
            if known.phase is Phase.STARTED:
                assert known.run_id is not None

    async def reopen(self) -> None:
        """Opening repairs: whole lines only, `.retry` and `.paused` tell what the journal does, no row has moved."""
        before = where(self.output, self.now)
        ledger = self.open()
        await ledger.close()
        assert self.errors == []
        assert where(self.output, self.now) == before
        places(self.output)
        in_memory = {row: place_of(ledger, row) for row in self.now}
        assert in_memory == before
        for line in results(self.output):
            assert line["workflow_run_id"].startswith(f"run-{line['id']}-")
        for path in (self.paths.journal, self.paths.paused, self.paths.retry):
            data = path.read_bytes() if path.exists() else b""
            assert data == b"" or data.endswith(b"\n")
        retry = parse_ids(self.paths.retry.read_bytes()) if self.paths.retry.exists() else []
        assert sorted(retry) == sorted(row for row, place in before.items() if place == RETRY)
        paused = [line["id"] for line in results(self.paths.paused)]
        assert sorted(paused) == sorted(row for row, place in before.items() if place == PAUSED)


def where(output: Path, rows: Iterable[str]) -> dict[str, str]:
    """The place of each row, by the files alone, torn lines included. Each row is in one place only."""
    index = IdIndex()
    state = read_state(Paths.of(output), index)
    assert state.bad_lines == []  # no id twice, no line that is not whole
    phases = {Phase.PAUSED: PAUSED, Phase.FAILED: RETRY, Phase.FREE: FREE}
    found = {}
    for row in rows:
        places = {DONE} if index.has(row, DONE_FLAG) else set()
        if row in state.rows:
            places.add(phases.get(state.rows[row].phase, RUNNING))
        if row in state.retry:
            places = places - {FREE} | {RETRY}
        assert len(places) <= 1, f"{row} is in {places}"
        found[row] = places.pop() if places else FREE
    return found


def place_of(ledger: Ledger, row: str) -> str:
    """The place of a row by the flags of an open ledger, of which it has only one."""
    flags = ledger.index.flags(row) & (DONE_FLAG | ids.OPEN | ids.RETRY | ids.PAUSED)
    by_flags = {0: FREE, DONE_FLAG: DONE, ids.OPEN: RUNNING, ids.RETRY: RETRY, ids.OPEN | ids.PAUSED: PAUSED}
    assert flags in by_flags, f"{row} is in two places: {flags:b}"
    return by_flags[flags]


def moves_of(rows: Sequence[str], picks: Iterable[tuple[int, int]], start: dict[str, str]) -> list[tuple[str, str]]:
    """A valid list of moves out of any numbers: each pick takes a row and one of the moves open to it, or a flush."""
    after = {"broken": "failed", "rejected": "failed", "unknown": "failed", "invalid": "failed", "found": "started"}
    after |= {"succeeded": "done", "release": "done"}
    state, failed = dict(start), {row for row, now in start.items() if now == "failed"}
    moves = []
    for row_pick, move_pick in picks:
        row = rows[row_pick % len(rows)]
        open_moves = (*MOVES[state[row]], "flush")
        move = open_moves[move_pick % len(open_moves)]
        moves.append((row, move))
        if move in ("unsent", "refused", "absent"):
            state[row] = "failed" if row in failed else "free"
        elif move != "flush":
            state[row] = after.get(move, move)
            if state[row] == "failed":
                failed.add(row)
            elif state[row] == "started":
                failed.discard(row)
    return moves


SCRIPT: tuple[tuple[str, str], ...] = (
    *((row, move) for row in ("a", "b") for move in ("sent", "started")),
    ("a", "succeeded"),
    ("c", "sent"),
    ("c", "succeeded"),  # a blocking answer: the run is told together with its end
    ("b", "broken"),
    ("d", "sent"),
    ("d", "unsent"),
    ("d", "sent"),
    ("d", "started"),
    ("d", "paused"),
    ("e", "invalid"),
    ("-", "flush"),
    ("b", "sent"),  # a failed row again
    ("b", "refused"),
    ("f", "sent"),
    ("f", "lost"),
    ("f", "absent"),
    ("b", "sent"),
    ("b", "started"),
    ("g", "sent"),
    ("g", "lost"),
    ("g", "unknown"),
    ("-", "flush"),
    ("h", "sent"),
    ("h", "started"),
    ("h", "held"),
    ("b", "succeeded"),
    ("-", "flush"),
    ("h", "release"),
    ("d", "succeeded"),
    ("i", "sent"),
    ("i", "started"),
    ("i", "paused"),
    ("j", "sent"),
    ("j", "held"),
    ("k", "sent"),
    ("k", "lost"),
    ("k", "found"),
    ("l", "sent"),
    ("m", "sent"),
    ("m", "paused"),
    ("m", "broken"),
    ("n", "sent"),
    ("n", "rejected"),
    ("-", "flush"),
    ("i", "held"),
    ("j", "release"),
    ("o", "sent"),
    ("o", "started"),
    ("o", "paused"),
)
"""Every move, and a failed row that is played again to its end."""
ROWS = sorted({row for row, _ in SCRIPT} - {"-"})
