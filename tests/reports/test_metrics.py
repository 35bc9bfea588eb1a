"""Metrics: their names and texts, the port, the file."""

from __future__ import annotations

import builtins
import re
import socket
import urllib.request
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from dify_batch.errors import UsageError
from dify_batch.ledger.disk import Disk
from dify_batch.outcomes import RunRef, RunResult
from dify_batch.reports.metrics import LOOPBACK, Metrics, families
from dify_batch.summary import Stats, Summary

parse_open: Any = openmetrics.text_string_to_metric_families  # it has no types
UNITS = ("seconds", "info", "rows", "run", "flight", "limit", "posts", "lookups", "recovered", "tokens", "cost")


def half() -> Stats:
    stats = Stats(rows=10, to_run=10, success=4, failed=1, in_flight=2, limit=5, posts=7, lookups=3, recovered=1)
    for seconds, price in ((0.2, "0.25"), (3.0, None), (9999.0, "0.5")):
        stats.ended(
            RunResult(RunRef("r"), "succeeded", {}, elapsed_time=seconds, total_tokens=100, total_price=price,
                      currency="USD")
        )  # fmt: skip
    stats.start_seconds.observe(0.05)
    return stats


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def served() -> Iterator[tuple[Metrics, int]]:
    port = free_port()
    metrics = Metrics(port, "out.jsonl", Disk())
    yield metrics, port
    metrics.close()


def scrape(port: int, accept: str = "application/openmetrics-text; version=1.0.0") -> str:
    request = urllib.request.Request(f"http://{LOOPBACK}:{port}/metrics", headers={"Accept": accept})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=5) as answer:
        return str(answer.read().decode())


def test_names_and_texts_are_as_a_linter_wants_them() -> None:
    found = families(half(), "out.jsonl", 1.5)
    names = [family.name for family in found]
    assert len(set(names)) == len(names)
    for family in found:
        assert re.fullmatch(r"dify_batch(_[a-z]+)+", family.name), family.name
        assert family.name.endswith(UNITS), family.name
        assert not re.search(r"_(gauge|counter|histogram|total|count|sum|bucket)$", family.name)
        assert family.documentation.endswith(".")
        assert len(family.documentation) > 15
        assert family.type in ("gauge", "counter", "histogram")
        for sample in family.samples:
            assert sample.labels["output"] == "out.jsonl"
            assert not {"job", "instance", "name"} & set(sample.labels)  # Prometheus sets the first two itself
        if family.type == "counter":
            assert all(sample.name == f"{family.name}_total" for sample in family.samples)
        if family.type == "histogram":
            assert family.name.endswith("_seconds")


def test_the_figures_are_those_of_the_batch(served: tuple[Metrics, int]) -> None:
    metrics, port = served
    metrics.update(half(), 1.5)
    text = scrape(port)
    assert text.endswith("# EOF\n")
    found = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in parse_open(text)
        for sample in family.samples
    }
    output = ("output", "out.jsonl")
    assert found["dify_batch_rows", output, ("state", "success")] == 4
    assert sum(value for key, value in found.items() if key[0] == "dify_batch_rows") == 10
    assert {key[2][1] for key in found if key[0] == "dify_batch_rows"} == set(Summary.STATES)
    assert found["dify_batch_cost_total", ("currency", "USD"), output] == 0.75
    assert found["dify_batch_tokens_total", output] == 300
    assert found["dify_batch_outage_seconds_total", output] == 1.5
    assert found["dify_batch_lookups_total", output] == 3
    assert found["dify_batch_run_duration_seconds_count", output] == 3
    assert found["dify_batch_run_duration_seconds_bucket", ("le", "0.25"), output] == 1
    assert found["dify_batch_run_duration_seconds_bucket", ("le", "5.0"), output] == 2
    assert found["dify_batch_run_duration_seconds_bucket", ("le", "+Inf"), output] == 3
    assert found["dify_batch_start_delay_seconds_sum", output] == pytest.approx(0.05)


def test_a_scrape_before_the_first_look_and_one_by_an_old_prometheus(served: tuple[Metrics, int]) -> None:
    metrics, port = served
    assert scrape(port) == "# EOF\n"
    metrics.update(half(), 0)
    assert "dify_batch_rows{" in scrape(port, "text/plain")


def test_only_this_machine_is_answered(served: tuple[Metrics, int]) -> None:
    others = [info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
    for host in {str(other) for other in others} - {LOOPBACK}:
        if host.startswith("127."):
            continue
        with pytest.raises(OSError, match="refused"), socket.create_connection((host, served[1]), 2):
            pass


def test_the_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    target = tmp_path / "batch.prom"
    metrics = Metrics(target, "out.jsonl", Disk())
    metrics.update(half(), 0)
    metrics.write()
    names = {family.name for family in parse_plain(target.read_text())}
    assert {"dify_batch_rows", "dify_batch_posts", "dify_batch_run_duration_seconds"} <= names
    metrics.update(Stats(rows=3), 0)
    metrics.write()
    assert 'state="untouched"} 3.0' in target.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["batch.prom"]
    metrics.close()


def test_a_port_that_is_taken(served: tuple[Metrics, int]) -> None:
    with pytest.raises(UsageError, match=f"port {served[1]} of 127.0.0.1 cannot be opened"):
        Metrics(served[1], "out.jsonl", Disk())


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("prometheus_client"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError) as caught:
        Metrics(9, "out.jsonl", Disk())
    assert caught.value.hint == 'install it: pip install "dify-batch[metrics]"'


def test_cost_of_several_currencies() -> None:
    stats = Stats()
    stats.used.prices = {"USD": Decimal("1.5"), "EUR": Decimal(2)}
    cost = next(family for family in families(stats, "o", 0) if family.name == "dify_batch_cost")
    assert {sample.labels["currency"]: sample.value for sample in cost.samples} == {"USD": 1.5, "EUR": 2.0}


def test_the_manual_names_each_metric() -> None:
    manual = (Path(__file__).parents[2] / "docs/manual/seeing.md").read_text(encoding="utf-8")
    for family in families(half(), "out.jsonl", 0):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert f"`{name}`" in manual, name
    shown = re.findall(r"`(dify_batch_[a-z_]+)`", manual)
    known = {family.name for family in families(half(), "out.jsonl", 0)}
    assert {name.removesuffix("_total") for name in shown} == known
