"""Whatever comes from a server, an outcome is made of it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dify_batch.dify.protocol import (
    Events,
    answer_outcome,
    detail_outcome,
    follow_outcome,
)
from dify_batch.outcomes import (
    Outcome,
    RunRef,
)

REF = RunRef("r1", "t1")


KEYS = [
    "event",
    "data",
    "status",
    "outputs",
    "reasons",
    "actions",
    "inputs",
    "TYPE",
    "id",
    "workflow_run_id",
    "task_id",
    "message",
    "code",
    "total_tokens",
    "finished_at",
    "error",
    "form_token",
]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["succeeded", "paused", "failed", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=20,
)
names = st.sampled_from(["workflow_started", "workflow_finished", "workflow_paused", "human_input_required", "error"])


@given(st.sampled_from([200, 201, 301, 400, 401, 403, 404, 413, 429, 500, 503]), values)
def test_no_answer_raises(status: int, body: Any) -> None:
    raw = json.dumps(body).encode()
    assert isinstance(answer_outcome(status, {}, raw), Outcome)
    assert isinstance(follow_outcome(status, raw, REF), Outcome)
    detail_outcome(status, raw, REF)


@given(st.lists(st.tuples(names, values, st.sampled_from([None, "r1", 7])), max_size=5))
def test_no_event_raises(raw: list[tuple[str, Any, Any]]) -> None:
    events = Events()
    for name, data, run in raw:
        outcome = events.feed({"event": name, "data": data, "workflow_run_id": run, "message": data})
        assert outcome is None or isinstance(outcome, Outcome)
    assert isinstance(events.end("end"), Outcome)
