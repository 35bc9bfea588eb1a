"""Whether the ids of an input are those that the output knows: what is done must be known, or nothing is sent. Pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Container, Iterator

from dify_batch.errors import InvalidInput
from dify_batch.ids import DONE, IN_INPUT, OPEN, PAUSED, RETRY, IdIndex, looks
from dify_batch.summary import Notice
from dify_batch.text import count, show

KNOWN = DONE | OPEN | PAUSED | RETRY
"""Ids that the files of the output hold from before."""

_SURE = DONE | OPEN | PAUSED
_SHORTENED = re.compile(r"[0-9](?:[.,][0-9]+)?E\+[0-9]{2,3}")  # 1.23457E+11
_SHOWN = 5  # ids that a message names of each kind


def alike(index: IdIndex) -> Iterator[tuple[str, str]]:
    """(id, other) of each id of the input that is not known from before, and looks the same as another of the input or
    as one that is known: it would be sent as a new row, and is probably none."""
    odd: dict[str, list[str]] = {}
    for id_ in index.unusual():
        seen = looks(id_)
        if seen != id_:
            odd.setdefault(seen, []).append(id_)
    for seen, ids in odd.items():
        if seen in index:
            ids.insert(0, seen)
        here = [id_ for id_ in ids if index.has(id_, IN_INPUT | KNOWN)]
        if len(here) < 2:
            continue
        for id_ in here:
            if index.has(id_, IN_INPUT) and not index.has(id_, KNOWN):
                other = next((old for old in here if index.has(old, KNOWN)), None)
                if other is None and id_ != here[0]:
                    other = here[0]
                if other is not None:
                    yield id_, other


def shortened(index: IdIndex) -> Notice | None:
    """A warning of ids that a spreadsheet has made of long numbers, and that are no more what they were."""
    found = [id_ for id_ in index.containing("E+") if index.has(id_, IN_INPUT) and _SHORTENED.fullmatch(id_)]
    if not found:
        return None
    what = count(len(found), "id looks", "ids look")
    message = (
        f"{what} like a long number that a spreadsheet has shortened, such as {show(found[0])}; its digits are lost"
    )
    return Notice("shortened_ids", f"{message}: export the column as text")


def check_known_ids(index: IdIndex, failed: Container[str], *, name: str, output: str) -> None:
    """Stops where the input holds none, or fewer than half, of the ids that the output knows: the ids have changed, or
    it is another table, and every row would be sent, and paid for, as a new one.

    Args:
        failed: rows that failed; an id that only a person wrote into `.retry` is none that the output knows.
        name: of the input.

    Raises:
        InvalidInput: code other_ids.
    """
    failed_before = [id_ for id_ in index.ids(RETRY) if id_ in failed and not index.has(id_, _SURE)]
    known = index.count(_SURE) + len(failed_before)
    here = index.count_both(_SURE, IN_INPUT) + sum(1 for id_ in failed_before if index.has(id_, IN_INPUT))
    if here * 2 >= known:
        return
    gone = [id_ for id_ in (*index.ids(_SURE), *failed_before) if not index.has(id_, IN_INPUT)][:_SHOWN]
    new = list(itertools.islice((id_ for id_ in index.ids(IN_INPUT) if not index.has(id_, KNOWN)), _SHOWN))
    have = "none of them is" if here == 0 else f"only {count(here, 'of them is', 'of them are')}"
    message = f"{output} knows {count(known, 'row')} from before, and {have} in {name}: such as {_some(gone)}"
    if new:
        message += f"; {name} has {_some(new)}"
    raise InvalidInput(
        f"{message}. Nothing was sent.",
        hint="if the ids have changed (a spreadsheet makes 001 to 1) or come from another column, mend them or see "
        "--id-column; give another table an output of its own; --allow-other-ids goes on all the same",
        code="other_ids",
        known=known,
        in_input=here,
    )


def _some(ids: list[str]) -> str:
    return ", ".join(show(id_) for id_ in ids)
