"""Records of the journal and of `.paused` whose fields have any shape: nothing that reads them may die of it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dify_batch.ledger.formats import Paths, json_line
from dify_batch.ledger.records import journal_record, paused_row
from dify_batch.ledger.state import Phase, claimed_runs, read_state
from dify_batch.ledger.store import Ledger
from dify_batch.reports.export import export
from dify_batch.reports.status import status_report
from tests.support.journals import UUIDS, batch, end, failed, sent, started

FORM = {"form_token": "t", "actions": ["yes"], "inputs": ["x"], "expires_at": "2026-11-22T02:00:00Z"}
LINE = {"id": "h", "status": "success", "inputs": {}, "outputs": {}, "workflow_run_id": "w"}
STORY: list[dict[str, Any]] = [
    batch(),
    *(sent("s"), sent("r"), started("r", UUIDS[0])),
    *(sent("f"), started("f", UUIDS[1]), failed("f", "boom")),
    *(sent("p"), started("p", "w"), {"event": "paused", "id": "p", "run": "w", "task": "t", "forms": [FORM]}),
    *(sent("h"), {"event": "held", "id": "h", "line": LINE}),
    {"event": "retry_file", "count": 1},
    {"event": "from_the_future", "id": "s", "run": 5},
    end("rows_failed", rows=5, untouched=0),
]
PAUSED = {"id": "q", "workflow_run_id": "w2", "task_id": "t", "form_token": "t", "forms": [FORM]}
ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just("9999-12-31T23:59:59.999+23:59")
)
VALUES = st.recursive(
    ANYTHING, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
)


@st.composite
def mutated(draw: st.DrawFn) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The story with some fields replaced by values of any type, or taken away; nested ones as well."""
    story: list[dict[str, Any]] = json.loads(json.dumps(STORY))
    paused: dict[str, Any] = json.loads(json.dumps(PAUSED))
    for _ in range(draw(st.integers(1, 4))):
        target: Any = draw(st.sampled_from([*story, paused]))
        while True:
            name = draw(st.sampled_from(sorted(target))) if isinstance(target, dict) and target else None
            if name is None:
                break
            inner = target[name]
            if isinstance(inner, dict) and inner and draw(st.booleans()):
                target = inner
                continue
            if isinstance(inner, list) and inner and isinstance(inner[0], dict) and draw(st.booleans()):
                target = inner[0]
                continue
            if draw(st.booleans()):
                target[name] = draw(VALUES)
            else:
                del target[name]
            break
    return story, paused


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutated())
def test_no_shape_of_a_record_is_the_end_of_a_reader(
    tmp_path_factory: pytest.TempPathFactory, files: tuple[list[dict[str, Any]], dict[str, Any]]
) -> None:
    story, paused = files
    paths = Paths.of(tmp_path_factory.mktemp("m") / "results.jsonl")
    paths.journal.write_bytes(b"".join(json_line(record, compact=True) for record in story))
    paths.paused.write_bytes(json_line(paused))
    paths.results.write_bytes(b"")
    report = status_report(paths.results, now=0.0)
    assert report.text()
    json.dumps(report.as_dict())
    export(paths.results, paths.results.with_name("table.csv"))
    claimed_runs(paths, lambda user: True)

    async def reopen() -> None:
        ledger = Ledger(paths, read_state(paths), base_url="http://x/v1", on_error=lambda error: None)
        await ledger.close()

    asyncio.run(reopen())


def test_a_field_of_another_type_costs_the_field_and_not_the_record(tmp_path: Path) -> None:
    """An intent whose user cannot be read is still an intent: its row must not be sent as if it were new."""
    assert journal_record(b'{"event":"sent","id":"a","user":5,"at":[]}') == {"event": "sent", "id": "a"}
    assert journal_record(b'{"event":"started","id":"a","run":5}') is None
    paths = Paths.of(tmp_path / "results.jsonl")
    paths.journal.write_bytes(b'{"event":"sent","id":"a","user":5,"at":[]}\n{"event":"started","id":"a","run":5}\n')
    assert read_state(paths).rows["a"].phase is Phase.SENT


def test_the_servers_time_stays_with_what_was_sent(tmp_path: Path) -> None:
    """In the record of an invocation the same name is the server's address."""
    paths = Paths.of(tmp_path / "results.jsonl")
    record = {**sent("a"), "server": 1795312800.25}
    paths.journal.write_bytes(json_line(batch(), compact=True) + json_line(record, compact=True))
    assert read_state(paths).rows["a"].server_at == 1795312800.25
    assert "server" not in (journal_record(json_line({**record, "server": "http://h/v1"})) or {"server": 1})


@pytest.mark.parametrize("line", [b"5", b'{"id": 5}', b'{"id": "e"}', b'{"id": "e", "workflow_run_id": 5}', b"\xff"])
def test_lines_of_paused_that_name_no_run(line: bytes) -> None:
    assert paused_row(line) is None
