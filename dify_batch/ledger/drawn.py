"""The rows of an output that are through, as a sample of those to come: what each used, and how long it took."""

from __future__ import annotations

from collections.abc import Iterable

from dify_batch.estimate import Drawn
from dify_batch.ledger import formats
from dify_batch.ledger.records import journal_record
from dify_batch.ledger.spent import figures_of_line
from dify_batch.ledger.state import lines_of
from dify_batch.seams import drawing
from dify_batch.usage import Total, Use

MOST = 2000
"""Rows that are kept while the files are read: each as likely as any other."""


def drawn(outputs: Iterable[formats.Paths]) -> list[Drawn]:
    """MOST of the rows that have a result, or failed with a run that told what it used; runs that failed count for
    their row. Copies ran nothing. `outputs`: one, or the parts of one. Raises StorageError where a file cannot be
    read."""
    chance = drawing(MOST)  # the same each time
    found: list[Drawn] = []
    seen = 0

    def keep(one: Drawn) -> None:
        nonlocal seen
        seen += 1
        if len(found) < MOST:
            found.append(one)
        elif (place := chance.randrange(seen)) < MOST:
            found[place] = one

    for paths in outputs:
        failed = _failed(paths)
        for line, _ in lines_of(paths.results):
            row_id = formats.result_id(line)
            if row_id is not None and not formats.is_copy(line):
                use, worked, waited = figures_of_line(line)
                total = failed.pop(row_id, Total())
                total.add(use)
                keep(_of(total, None if worked is None else worked + (waited or 0.0)))
        for total in failed.values():
            keep(_of(total, None))
    return found


def _failed(paths: formats.Paths) -> dict[str, Total]:
    """What runs that gave no result have used, by their rows."""
    found: dict[str, Total] = {}
    for line, _ in lines_of(paths.journal):
        if line.startswith(b'{"event":"spent"'):
            record = journal_record(line)
            if record is not None and isinstance(row_id := record.get("id"), str):
                found.setdefault(row_id, Total()).add(Use.of(record))
    return found


def _of(total: Total, seconds: float | None) -> Drawn:
    tokens = total.tokens if total.tokens_told else None
    return Drawn(tokens, dict(total.prices) if total.prices_told else None, seconds)
