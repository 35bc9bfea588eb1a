"""What all parts of a batch come to before any of them is run: the files, the app's form, the check of the whole input.

One pass for all workers, so that nothing is sent that cannot work, and each worker reads only the rows of its parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dify_batch.batch.belonging import identify
from dify_batch.batch.frame import Frame
from dify_batch.batch.preparation import ask_form, bind
from dify_batch.engine.work import Work
from dify_batch.ids import DONE, IN_INPUT, INVALID, OPEN, PAUSED, RETRY, IdIndex, Shard, shard_of
from dify_batch.input.check import CheckReport, check, valid_rows
from dify_batch.input.choice import choose, read_ids
from dify_batch.input.identity import check_known_ids
from dify_batch.input.opening import Stamp
from dify_batch.input.records import ADDED_ALWAYS, Problem
from dify_batch.ledger.formats import Paths
from dify_batch.ledger.place import require_ours
from dify_batch.ledger.shards import shard_path
from dify_batch.ledger.spent import spent
from dify_batch.ledger.state import Phase, State, read_state
from dify_batch.summary import Notice
from dify_batch.usage import Total

_SHOWN = 3  # payloads of a dry run


@dataclass(slots=True)
class Standing:
    """Where the rows of one part are. `open`: a run of them is known, or may exist, paused ones too. `begun`: whether
    the part has files."""

    shard: Shard
    begun: bool = False
    rows: int = 0
    done: int = 0
    to_run: int = 0
    retry_waiting: int = 0
    paused: int = 0
    open: int = 0

    @property
    def executing(self) -> int:
        """Rows whose run may be going on."""
        return self.open - self.paused

    @property
    def needed(self) -> bool:
        """Whether there is anything to do."""
        return self.to_run > 0 or self.open > 0 or not self.begun


@dataclass(frozen=True, slots=True)
class Survey:
    """`left_out`: bad rows without an id of their own. `used`: what all parts have used so far. `first`: the first
    rows to send, where they were asked for."""

    parts: tuple[Standing, ...]
    index: IdIndex
    stamp: Stamp | None
    left_out: int
    used: Total
    first: tuple[Work, ...] = ()

    @property
    def to_run(self) -> int:
        return sum(part.to_run for part in self.parts)


async def survey(frame: Frame, shards: Sequence[Shard], *, with_use: bool) -> Survey:
    """Raises UsageError, InvalidInput, StorageError, and what the first questions to the server raise; nothing was sent
    then."""
    settings, stats, source, threads = frame.settings, frame.stats, frame.source, frame.seams.threads
    ids = None if settings.ids is None else read_ids(settings.ids)
    index = IdIndex()
    stats.state = f"reading the parts of {settings.output}"
    states: list[tuple[Shard, State]] = []
    used = Total()
    for shard in shards if not settings.overwrite else ():
        path = shard_path(settings.output, shard)
        state, spent_so_far = await threads.run(lambda path=path: _read(path, index, with_use))  # type: ignore[misc]
        states.append((shard, state))
        used.join(spent_so_far)
    form, info = await ask_form(frame)
    for shard, state in states:
        require_ours(Paths.of(shard_path(settings.output, shard)), state.strange)
        _, found = identify(
            info,
            state,
            frame.seams.chance,
            base_url=frame.target.base_url,
            owner=frame.target.owner,
            workflow_id=settings.workflow_id,
            demo=settings.demo,
            allowed=settings.allow_other_app,
        )
        if shard == shards[0]:
            frame.warn(*found)
    bound = bind(form, source, settings)
    stats.state = f"checking {source.name}"
    report = await threads.run(lambda: check(source, bound, index, other_ids=settings.other_ids))
    report.raise_if_any(skip_invalid=settings.skip_invalid)
    if not settings.other_ids and not set(source.header) >= ADDED_ALWAYS:
        failed = {row_id for _, state in states for row_id in state.rows}
        check_known_ids(index, failed, name=source.name, output=str(settings.output))
    chosen, unlisted = choose(index, ids=ids, sample=settings.sample, name=source.name)
    frame.warn(*report.warnings)
    if unlisted is not None:
        frame.warn(Notice("ids_not_in_input", unlisted))
    parts = count_rows(shards, states, index, chosen, retry=settings.retry)
    first: list[Work] = []
    if settings.dry_run:
        for entry in valid_rows(source, bound, index, chosen):
            if isinstance(entry, Problem) or index.has(entry[0].id, DONE | OPEN | RETRY):
                continue
            first.append(Work(entry[0].id, entry[0].number, entry[1]))
            if len(first) == _SHOWN:
                break
    stats.state = ""
    return Survey(parts, index, source.stamp, _left_out(report, index), used, tuple(first))


def _read(path: Path, index: IdIndex, with_use: bool) -> tuple[State, Total]:
    paths = Paths.of(path)
    return read_state(paths, index), spent(paths) if with_use else Total()


def _left_out(report: CheckReport, index: IdIndex) -> int:
    return max(0, report.invalid - index.count(INVALID))


def count_rows(
    shards: Sequence[Shard],
    states: Sequence[tuple[Shard, State]],
    index: IdIndex,
    chosen: frozenset[str] | None,
    *,
    retry: bool,
) -> tuple[Standing, ...]:
    """The rows of each part, by what is known of them. With `retry` those of `.retry` are the ones to run. Pure."""
    parts = {shard.number: Standing(shard) for shard in shards}
    of = shards[0].of
    for row_id in index.ids(IN_INPUT):
        flags, part = index.flags(row_id), parts.get(shard_of(row_id, of))
        if part is None:
            continue
        part.rows += 1
        if flags & DONE:
            part.done += 1
        elif flags & OPEN:
            part.open += 1
            part.paused += bool(flags & PAUSED)
        elif flags & RETRY:
            part.retry_waiting += 1
            part.to_run += retry and not flags & INVALID and (chosen is None or row_id in chosen)
        elif not flags & INVALID:
            part.to_run += not retry and (chosen is None or row_id in chosen)
    for shard, state in states:
        part = parts[shard.number]
        part.begun = state.last_batch is not None
        part.open += sum(
            1
            for row_id, row in state.rows.items()
            if row.phase not in (Phase.FAILED, Phase.FREE) and not index.has(row_id, IN_INPUT)
        )
    return tuple(parts.values())
