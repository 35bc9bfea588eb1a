"""Which rows of an input this invocation is about: --ids and --sample. Rows that are not chosen stay as they are.

Shards go by the same fixed hash (see ids.py), so a sample of a shard is a sample of its rows.
"""

from __future__ import annotations

import heapq
from pathlib import Path

from dify_batch.errors import UsageError
from dify_batch.ids import IN_INPUT, INVALID, IdIndex, Shard, id_hash, parse_ids
from dify_batch.text import count, show


def read_ids(path: Path) -> frozenset[str]:
    """The ids of a list, one a line; blank lines, CRLF and a byte order mark are fine.

    Raises:
        UsageError: there is no such file, it is no UTF-8 text, or it has no ids.
    """
    try:
        found = frozenset(parse_ids(path.read_bytes()))
    except UnicodeDecodeError:
        raise UsageError(
            f"--ids: {show(str(path), 200)} is no UTF-8 text", hint="save it as UTF-8, one id a line"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"--ids: {show(str(path), 200)} cannot be read: {reason}", code="usage_invalid_flag") from None
    if not found:
        raise UsageError(f"--ids: {show(str(path), 200)} holds no ids", code="usage_invalid_flag")
    return found


def choose(
    index: IdIndex, *, ids: frozenset[str] | None, sample: int | None, name: str
) -> tuple[frozenset[str] | None, str | None]:
    """The chosen ids of a checked input, None for all; and a warning where listed ids are not in it.

    Args:
        ids: of --ids.
        sample: of --sample: so many rows with the least hashes, of those that `ids` leaves: the same tomorrow.
        name: of the input.

    Raises:
        UsageError: none of the listed ids is in the input, or it has fewer rows than the sample.
    """
    warning = None
    chosen = None
    if ids is not None:
        chosen = frozenset(id_ for id_ in ids if index.has(id_, IN_INPUT))
        missing = [id_ for id_ in sorted(ids) if id_ not in chosen][:5]
        if not chosen:
            raise UsageError(
                f"--ids: none of {count(len(ids), 'id is', 'ids is')} in {name}, such as {_some(missing)}",
                hint="see --id-column",
                code="usage_invalid_flag",
            )
        if missing:
            gone = count(len(ids) - len(chosen), "id is", "ids are")
            warning = f"--ids: {gone} not in {name}, such as {_some(missing)}"
    if sample is not None:
        pool = [id_ for id_ in (index.ids(IN_INPUT) if chosen is None else chosen) if not index.has(id_, INVALID)]
        if sample > len(pool):
            raise UsageError(
                f"--sample {sample}: {name} has {count(len(pool), 'row')} to draw from",
                hint="draw fewer, or leave --sample out",
                code="usage_invalid_flag",
            )
        chosen = frozenset(heapq.nsmallest(sample, pool, key=id_hash))
    return chosen, warning


def only(index: IdIndex, shard: Shard, chosen: frozenset[str] | None) -> frozenset[str] | None:
    """The chosen ids of one part of a checked input, None for all of them. Rows of other parts count as not in the
    input from here on."""
    others = [id_ for id_ in index.ids(IN_INPUT) if id_ not in shard]
    for id_ in others:
        index.remove(id_, IN_INPUT | INVALID)
    return None if chosen is None else frozenset(id_ for id_ in chosen if id_ in shard)


def _some(ids: list[str]) -> str:
    return ", ".join(map(show, ids))
