"""What all runs of an output have used."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dify_batch.ledger.formats import Paths, json_line, result_line
from dify_batch.ledger.spent import spent, use_of_line
from dify_batch.outcomes import RunRef, RunResult
from dify_batch.usage import Use
from tests.support.result_tables import put, result

LOOKS_ALIKE = '"total_tokens": 999999, "total_steps": 1, "task_id": "t", "total_price": "9", "currency": "XXX"}'


def test_results_replaced_results_and_failed_runs_are_counted(tmp_path: Path) -> None:
    journal: list[dict[str, Any]] = [
        {"event": "spent", "id": "a", "run": "r1", "total_tokens": 5, "total_price": "0.5", "currency": "USD"},
        {"event": "failed", "id": "a", "kind": "failed", "code": "run_failed", "message": "no"},
        {"event": "failed", "id": "b", "kind": "rejected", "code": "x", "message": '"total_tokens": 7'},
    ]  # fmt: skip
    output = put(tmp_path, [result("a", {}, {}, total_price="0.25", currency="USD"), result("c", {}, {})], journal)
    superseded = output.with_name(output.name + ".superseded")
    superseded.write_bytes(json_line(result("c", {}, {}, total_price="1", currency="EUR")))
    total = spent(Paths.of(output))
    assert total.prices == {"USD": Decimal("0.75"), "EUR": Decimal(1)}
    assert total.tokens == 7 + 7 + 7 + 5
    assert total.runs == 4
    assert total.prices_told == 3


def test_an_output_that_is_not_there_has_used_nothing(tmp_path: Path) -> None:
    assert spent(Paths.of(tmp_path / "results.jsonl")).runs == 0


@given(
    answer=st.one_of(st.just(LOOKS_ALIKE), st.just({"x": LOOKS_ALIKE}), st.text(max_size=900), st.just("x" * 5000)),
    tokens=st.none() | st.integers(0, 10**9),
    price=st.none() | st.sampled_from(["0.0001", "12"]),
)
def test_a_glance_at_a_line_tells_what_the_whole_line_does(
    answer: object, tokens: int | None, price: str | None
) -> None:
    run = RunResult(
        RunRef("run", "task"), "succeeded", {"answer": answer}, total_tokens=tokens, total_price=price, currency="USD"
    )
    line = result_line("r", {"id": "r"}, run, retry_count=0, now=0.0).rstrip(b"\n")
    assert use_of_line(line) == Use.of(json.loads(line)) == Use.of_run(run)


def test_a_line_with_several_currencies() -> None:
    run = RunResult(RunRef("run"), "succeeded", {}, total_tokens=7, prices={"EUR": "1", "USD": "2"}, workflow_id="w")
    line = result_line("r", {"id": "r"}, run, retry_count=0, now=0.0)
    assert list(json.loads(line))[-6:] == ["total_price", "currency", "prices", "workflow_id", "trace_id", "queue_time"]
    assert use_of_line(line) == Use.of_run(run)
    assert use_of_line(line).prices == {"EUR": Decimal(1), "USD": Decimal(2)}


@pytest.mark.parametrize(
    ("line", "use"),
    [
        (b'{"id": "r", "outputs": {"total_tokens": 9}}', Use()),
        (b'{"id": "r", "total_tokens": 9}', Use(9)),
        (b'{"total_tokens": 9, "outputs": {"a": 1}, "id": "r"}', Use(9)),
        (b'{"id": "r", "total_tokens": 9, "total_steps": 1}  ', Use(9)),
        (b'{"id": "r", "total_tokens": 9, "currency": "\\u20ac"}', Use(9, None, "€")),
        (b"[]", Use()),
        (b"no json", Use()),
    ],
)
def test_lines_of_other_programs(line: bytes, use: Use) -> None:
    assert use_of_line(line) == use
