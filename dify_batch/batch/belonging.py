"""Whose results an output holds, and whether they are answers to the rows as they are now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dify_batch.ids import DONE, IN_INPUT, IdIndex
from dify_batch.input.files import Inputs, described
from dify_batch.ledger.answered import Answered, changed, meaning
from dify_batch.ledger.identity import SALT, Identity, require_same
from dify_batch.ledger.state import State, lines_of
from dify_batch.seams import Chance
from dify_batch.summary import Notice
from dify_batch.text import count, listed, show


def identify(
    info: Mapping[str, Any],
    state: State,
    chance: Chance,
    *,
    base_url: str,
    owner: str,
    workflow_id: str | None,
    demo: bool,
    allowed: bool,
) -> tuple[Identity, list[Notice]]:
    """What this invocation addresses, compared with what the output holds; and what a person should know of it.

    `info`: the answer of GET /info, or {}. `owner`: the app's key, or what stands for it with a sign-in. `allowed`:
    --allow-other-app.
    Raises UsageError (other_app).
    """
    if demo:
        now, key = Identity(demo=True), ""
    else:
        name, mode = info.get("name"), info.get("mode")
        key = owner
        now = Identity.of(
            base_url,
            key,
            next((one.salt for one in reversed(state.before) if one.salt), None) or chance.token(SALT),
            app=name if isinstance(name, str) and name else None,
            mode=mode if isinstance(mode, str) and mode else None,
            workflow_id=workflow_id,
        )
    note = require_same(state.before, base_url, key, now, allowed=allowed)
    return now, [Notice("other_key" if "key" in note else "other_app", note)] if note else []


class Comparison:
    """Finds the rows whose inputs differ from those of their result, while the input is checked."""

    def __init__(self, index: IdIndex, answered: Answered) -> None:
        self._index = index
        self._answered = answered
        self._suspects: dict[str, int] = {}

    def look(self, row_id: str, inputs: Inputs) -> None:
        """For each row that passes the check."""
        if self._index.has(row_id, DONE):
            values = described(inputs.values) if inputs.has_local else inputs.values
            if not self._answered.has(row_id, values):
                self._suspects[row_id] = meaning(values)

    def changed(self, results: Path) -> list[str]:
        """The ids in the order of the input. Reads the results again where a text differs, be it in its spelling."""
        return changed(self._suspects, lines_of(results))


def notices(
    index: IdIndex, state: State, changed_ids: list[str], *, rerun: bool, part: bool, source: str
) -> list[Notice]:
    """What a person should know of results and rows that do not fit each other. `part`: the input is known to hold only
    some rows."""
    found = []
    if changed_ids:
        what = count(len(changed_ids), "row has changed since its result", "rows have changed since their results")
        cure = "it is run again" if rerun else "--rerun-changed runs what has changed again"
        found.append(Notice("rows_changed", f"{what}: {listed(changed_ids)}; {cure}"))
    gone = [] if part else [row_id for row_id in index.ids(DONE) if not index.has(row_id, IN_INPUT)]
    if gone:
        what = count(len(gone), "result is of a row that is", "results are of rows that are")
        found.append(Notice("rows_gone", f"{what} not in {source} any more and stay: {listed(gone)}"))
    if len(state.versions) > 1:
        each = ", ".join(f"{show(name)} ({times:,})" for name, times in list(state.versions.items())[:20])
        found.append(
            Notice("several_versions", f"the results come from {len(state.versions)} versions of the workflow: {each}")
        )
    return found
