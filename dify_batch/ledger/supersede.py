"""Rows that are to be run again although they are done: their old lines go from the results to `.superseded`.

In this order, so that a crash at any point loses no result and forgets no row: the old lines are durable in
`.superseded`; the journal says that they go; the results are replaced by a file without them, in one step. Until then
the rows count as done.
"""

from __future__ import annotations

from collections.abc import Collection

from dify_batch.ledger import formats
from dify_batch.ledger.appendfile import AppendFile, storage_error
from dify_batch.ledger.disk import PRIVATE, Disk
from dify_batch.seams import Clock


def supersede(paths: formats.Paths, ids: Collection[str], disk: Disk, clock: Clock) -> dict[str, int]:
    """Moves the lines of `ids`. Gives, for each row that had one, how many POSTs it had taken. Raises StorageError."""
    if not ids:
        return {}
    try:
        found = _to_superseded(paths, ids, disk)
        if found:
            _to_journal(paths, found, disk, clock)
            _out_of_results(paths, found, disk)
    except OSError as error:
        raise storage_error(paths.results, error) from error
    return found


def _to_superseded(paths: formats.Paths, ids: Collection[str], disk: Disk) -> dict[str, int]:
    old = AppendFile.open(paths.superseded, disk)
    found: dict[str, int] = {}
    try:
        with paths.results.open("rb") as file:
            for raw in file:
                line = raw.removeprefix(formats.BOM).rstrip(b"\r\n")
                row_id = formats.result_id(line)
                if row_id is not None and row_id in ids:
                    old.write(line + b"\n")
                    record = formats.line_object(line) or {}
                    again = record.get("retry_count")
                    found[row_id] = 1 + again if isinstance(again, int) and again >= 0 else 1
                    if "copy_of" in record:
                        found[row_id] -= 1  # it was never sent
        old.sync()
    finally:
        old.close()
    return found


def _to_journal(paths: formats.Paths, found: dict[str, int], disk: Disk, clock: Clock) -> None:
    journal = AppendFile.open(paths.journal, disk, mode=PRIVATE)
    try:
        at = formats.utc(clock.wall(), milliseconds=True)
        for row_id, posts in found.items():
            record = {"event": "superseded", "id": row_id, "posts": posts, "at": at}
            journal.write(formats.json_line(record, compact=True))
        journal.sync()
    finally:
        journal.close()


def _out_of_results(paths: formats.Paths, found: dict[str, int], disk: Disk) -> None:
    with paths.results.open("rb") as file, disk.replacing(paths.results) as new:
        bom = True
        for raw in file:
            line = raw.removeprefix(formats.BOM)
            if bom and len(line) < len(raw):
                new.write(formats.BOM)
            bom = False
            row_id = formats.result_id(line.rstrip(b"\r\n"))
            if row_id is None or row_id not in found:
                new.write(line)
