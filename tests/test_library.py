"""The Python API: rows from memory, a call for each row, the blocking wrapper, its names and its page in the manual."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dify_batch
from dify_batch import Settings, SettledRow, UsageError, run_batch, run_batch_sync
from dify_batch.simulator import DEMO_KEYS, Config, Simulator
from tests.support import harness

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "manual" / "python.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def process() -> Iterator[Simulator]:
    with Simulator(Config(latency=0.02)) as simulator:
        yield simulator


@pytest.fixture
def server(process: Simulator) -> Simulator:
    process.reset()
    process.configure(latency=0.02)
    return process


def settings(server: Simulator, folder: Path, **more: Any) -> Settings:
    given: dict[str, Any] = {
        "input": "-",
        "output": folder / "results.jsonl",
        "bom": False,
        "api_key": "app-echo",
    } | more
    return Settings(base_url=server.base_url, **given)


def test_rows_from_memory_and_a_call_for_each(server: Simulator, tmp_path: Path) -> None:
    server.faults({"rows": {"b": ["failed"], "c": ["paused"]}})
    told: list[SettledRow] = []
    rows = [{"id": name, "query": f"about {name}", "n": 7, "flag": True} for name in "abc"]
    report = run_batch_sync(settings(server, tmp_path), rows=rows, on_row=told.append)
    assert report.error is not None
    assert report.error.code == "rows_failed"
    by_id = {row.id: row for row in told}
    assert {name: row.state for name, row in by_id.items()} == {"a": "success", "b": "failed", "c": "paused"}
    assert by_id["a"].result is not None
    assert by_id["a"].result.outputs["n"] == 7
    assert by_id["a"].result.workflow_id
    assert by_id["b"].code == "run_failed"
    (line,) = (tmp_path / "results.jsonl").read_text().splitlines()
    assert json.loads(line)["inputs"] == {"id": "a", "query": "about a", "n": 7, "flag": True}
    # The same call again goes on: what is done is not sent again, nor told again.
    server.faults({"rows": {}})
    again = run_batch_sync(settings(server, tmp_path, retry=True), rows=iter(rows), on_row=told.append)
    assert again.error is None
    assert [row.id for row in told[3:]] == ["b"]


def test_rows_are_taken_one_by_one_and_need_not_fit_in_memory(server: Simulator, tmp_path: Path) -> None:
    rows = ({"id": number, "query": "x" * 50_000} for number in range(40))
    report = run_batch_sync(settings(server, tmp_path, limit=1), rows=rows)
    assert (report.summary.rows, report.summary.success) == (40, 1)


def test_what_on_row_raises_stops_nothing(server: Simulator, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def tell(row: SettledRow) -> None:
        raise RuntimeError("mine")

    rows = [{"id": name, "query": "x"} for name in "ab"]
    assert run_batch_sync(settings(server, tmp_path), rows=rows, on_row=tell).summary.success == 2
    assert caplog.text.count("on_row failed") == 2


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"id": "a", "query": {1, 2}}], "row 1 cannot be written as JSON"),
        ([{"id": "a", "query": "x"}, {"id": "b", "query": float("nan")}], "row 2 cannot be written as JSON"),
        ([{"query": "x"}], "id"),
        ([], "empty"),
        ([{"id": "a", "query": "x"}, {"id": "a", "query": "y"}], "a"),
    ],
)
def test_rows_that_cannot_be_sent(rows: list[dict[str, Any]], said: str, server: Simulator, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        run_batch_sync(settings(server, tmp_path), rows=rows)
    assert said in caught.value.message
    assert server.state(runs=False)["executions"] == {}


def test_rows_and_a_file_contradict_each_other(server: Simulator, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="rows are given, and an input too"):
        run_batch_sync(settings(server, tmp_path, input="data.csv"), rows=[])


async def test_the_blocking_wrapper_within_a_loop_says_what_to_write(server: Simulator, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        run_batch_sync(settings(server, tmp_path), rows=[])
    assert caught.value.hint == "use: await run_batch(settings)"


async def test_collect_sends_nothing(server: Simulator, tmp_path: Path) -> None:
    rows = [{"id": name, "query": "x"} for name in "ab"]
    server.configure(latency=2.0)
    first = await run_batch(settings(server, tmp_path, timeout=0.5, limit=1), rows=rows)
    assert first.summary.running == 1
    report = await run_batch(settings(server, tmp_path), rows=rows, collect=True)
    assert (report.summary.success, report.summary.posts, report.summary.untouched) == (1, 0, 1)
    assert server.state(runs=False)["executions"] == {"a": 1}


# ---------------------------------------------------------------- names and page


def test_every_public_name_is_there_and_none_is_forgotten() -> None:
    assert sorted(dify_batch.__all__) == list(dify_batch.__all__)
    for name in dify_batch.__all__:
        assert getattr(dify_batch, name) is not None
    assert set(dify_batch._HOME) | {"__version__"} == set(dify_batch.__all__)


def test_the_page_names_every_public_name() -> None:
    named = set(re.findall(r"`(\w+)(?:\(.*?\))?`", PAGE))
    assert set(dify_batch.__all__) <= named


def test_the_page_names_every_method_of_the_client() -> None:
    methods = {name for name in dir(dify_batch.KindClient) if name[:1] != "_"}
    internal = {"aclose", "base_url", "clock_offset", "probe", "server_time_known", "of", "kind_by_answers"}
    text = set(re.findall(r"(?:`|client\.)(\w+)\(", PAGE))
    assert methods - internal <= text


@pytest.mark.parametrize("number", range(5))
def test_each_program_of_the_page_runs(number: int, server: Simulator, tmp_path: Path) -> None:
    programs = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert len(programs) == 5
    harness.write_csv(tmp_path / "data.csv", 2)
    done = subprocess.run(
        [sys.executable, "-c", programs[number]],
        cwd=tmp_path,
        env=harness.environment(server.base_url, key="app-demo", CHAT_API_KEY=DEMO_KEYS["chat"]),
        capture_output=True,
        text=True,
        timeout=harness.LIMIT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = (
        "2 done; all well",
        "1 success {'answer': 'Echo: What is 1 + 1?'}",
        "'Echo: hello'",
        "'Echo: hello'",
        "Echo: hello 0.0000210",
    )
    assert said[number] in done.stdout


def test_asyncio_is_not_kept_from_ending(server: Simulator, tmp_path: Path) -> None:
    """A callback and rows leave no task behind."""

    async def main() -> int:
        await run_batch(settings(server, tmp_path), rows=[{"id": "a", "query": "x"}], on_row=lambda row: None)
        return len(asyncio.all_tasks())

    assert asyncio.run(main()) == 1
