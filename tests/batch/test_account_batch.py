"""A batch with --app: a sign-in in place of an app key, against each shape of the account surface."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dify_batch.batch.invocation import BatchReport, run_batch
from dify_batch.errors import AuthError, UsageError
from dify_batch.settings import Settings
from dify_batch.simulator import Config, Simulator
from tests.support.accounts import IDS, SHAPES, plain, sign_in
from tests.support.batchfolder import soon

FAST = {"rate": 200.0, "settle": 0.2, "initial_retry_delay": 0.05, "max_retry_delay": 0.2, "timeout": 5.0}


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def sim(shape: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Simulator]:
    config = Config(
        api_shape=shape, latency=0.02, linger_after_finish=0.0, snapshot_delay=0.0, account_rate=None, workers=None
    )
    with Simulator(config) as running:
        monkeypatch.setenv("DIFY_TOKEN", sign_in(running))
        monkeypatch.setenv("DIFY_HOST", running.base_url.removesuffix("/v1"))
        monkeypatch.setenv("DIFY_CONFIG_DIR", str(tmp_path / "config"))
        yield running


def table(folder: Path, *queries: str) -> Path:
    path = folder / "data.csv"
    path.write_text("id,query\n" + "".join(f"r{n},{query}\n" for n, query in enumerate(queries, 1)))
    return path


async def batch(folder: Path, app: str, *queries: str, **more: Any) -> BatchReport:
    path = table(folder, *queries) if queries else folder / "data.csv"
    return await run_batch(Settings(input=str(path), output=folder / "r.jsonl", app=app, **(FAST | more)))


def results(folder: Path) -> dict[str, dict[str, Any]]:
    lines = (folder / "r.jsonl").read_text("utf-8-sig").splitlines()
    return {line["id"]: line for line in map(json.loads, lines)}


def retry(folder: Path) -> list[str]:
    path = folder / "r.jsonl.retry"
    return path.read_text("utf-8-sig").split() if path.exists() else []


async def test_every_row_once(sim: Simulator, tmp_path: Path) -> None:
    report = await batch(tmp_path, IDS["app-demo"], *(f"hello {n}" for n in range(40)))
    assert (report.error, report.summary.success) == (None, 40)
    assert results(tmp_path)["r1"]["outputs"] == {"answer": "Echo: hello 0"}
    assert set(sim.state()["executions"].values()) == {1}
    again = await batch(tmp_path, IDS["app-demo"])
    assert (again.summary.done_before, sim.state()["post_total"]) == (40, 40)


async def test_each_kind_of_trouble(sim: Simulator, tmp_path: Path, shape: str) -> None:
    sim.faults(
        rows={
            "r1": ["failed"],
            "r2": ["cut_after_start"],
            "r3": ["rejected"],
            "r4": ["throttle_429", "normal"],
            "r5": ["cut_mid_stream"],
            "r6": ["partial"],
            "r7": ["error_500"],
            "r8": ["cut_after_accept"],
        }
    )
    report = await batch(tmp_path, IDS["app-demo"], *(f"query {n}" for n in range(10)))
    assert report.exit_status == 1
    found = results(tmp_path)
    assert {"r2", "r4", "r5", "r6", "r9", "r10"} <= found.keys()
    assert found["r6"]["status"] == "partial-success"
    assert found["r4"]["retry_count"] == 1
    lost = {"r7"} if shape == "C" else {"r7", "r8"}  # C lists the app's runs: the one that was made is found
    assert set(retry(tmp_path)) == {"r1", "r3"} | lost
    assert report.summary.unknown == len(lost)
    assert sim.state()["posts"] == {**{f"r{n}": 1 for n in range(1, 11)}, "r4": 2}
    assert max(sim.state()["executions"].values()) == 1


async def test_two_equal_rows_share_no_run_and_are_not_sent_again(sim: Simulator, tmp_path: Path, shape: str) -> None:
    (tmp_path / "data.csv").write_text("id,query\nr1,same\nr2,same\n")
    sim.faults(all="cut_after_accept")
    report = await batch(tmp_path, IDS["app-demo"])
    assert sim.state()["post_total"] == 2
    assert report.summary.unknown + report.summary.success == 2
    if shape != "C":
        assert report.summary.unknown == 2
    elif report.summary.success:  # each run was seen while the other could not yet be its row's
        runs = [line["workflow_run_id"] for line in results(tmp_path).values()]
        assert len(set(runs)) == len(runs)


async def test_an_app_key_beside_it_finds_what_was_lost(
    sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sim.faults(rows={"r1": ["cut_after_accept"]})
    report = await batch(tmp_path, IDS["app-demo"], "one", "two", api_key="app-demo", base_url=sim.base_url)
    assert (report.error, report.summary.success, report.summary.recovered) == (None, 2, 1)
    assert sim.state()["post_total"] == 2


async def test_paused_rows_are_collected_later(sim: Simulator, tmp_path: Path) -> None:
    report = await batch(tmp_path, IDS["app-human"], "please")
    assert (report.error, report.summary.paused) == (None, 1)
    paused = json.loads((tmp_path / "r.jsonl.paused").read_text("utf-8-sig"))
    sim.submit_form(paused["workflow_run_id"], comment="fine")
    report = await batch(tmp_path, IDS["app-human"])
    assert report.summary.done_before + report.summary.success == 1
    assert results(tmp_path)["r1"]["outputs"] == {"comment": "fine", "query": "please"}


@pytest.mark.parametrize("mode", ["chat", "agent-chat", "advanced-chat", "completion"])
async def test_chats_take_a_query_column(sim: Simulator, tmp_path: Path, mode: str, shape: str) -> None:
    with plain(sim) as http:
        http.headers["Authorization"] = f"Bearer {sign_in(sim, label='other')}"
        space = http.get("/account").json()["default_workspace_id"]
        app = http.get("/apps", params={"workspace_id": space, "mode": mode}).json()["data"][0]["id"]
    if mode == "completion":
        (tmp_path / "data.csv").write_text("id,topic\nr1,cats\n")
        report = await batch(tmp_path, app)
        wanted = "Echo: cats"
    else:
        report = await batch(tmp_path, app, "Hi", "Ho")
        wanted = "Echo: Hi"
    assert report.error is None
    row = results(tmp_path)["r1"]
    assert row["outputs"]["answer"] == wanted
    names = {"answer", "message_id"} | ({"conversation_id"} if mode != "completion" else set())
    assert names <= row["outputs"].keys()
    if mode in ("chat", "agent-chat"):
        assert (row["total_price"], row["currency"]) == ("0.0000020", "USD")
        assert results(tmp_path)["r2"]["outputs"]["conversation_id"] != row["outputs"]["conversation_id"]


async def test_a_chat_s_message_is_required(sim: Simulator, tmp_path: Path) -> None:
    from dify_batch.errors import InvalidInput

    (tmp_path / "data.csv").write_text("id,topic\nr1,cats\n")
    with pytest.raises(InvalidInput):
        await batch(tmp_path, IDS["app-chat"])
    assert sim.state()["post_total"] == 0


async def test_files_are_uploaded_for_the_account(sim: Simulator, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "data.csv").write_text("id,doc\nr1,a.txt\n")
    report = await batch(tmp_path, IDS["app-files"])
    assert report.error is None
    assert results(tmp_path)["r1"]["outputs"]["doc"]["filename"] == "a.txt"


async def test_a_token_that_dies_stops_the_batch_and_leaves_the_rest(sim: Simulator, tmp_path: Path) -> None:
    sim.configure(latency=0.3)
    started = sim.state

    async def later() -> None:
        await soon(lambda: bool(started()["post_total"]), "a run was sent")
        sim.configure(clock_skew=15 * 86400)

    killer = asyncio.create_task(later())
    report = await batch(tmp_path, IDS["app-demo"], *map(str, range(30)), concurrency=2)
    await killer
    assert isinstance(report.error, AuthError)
    assert (report.error.code, report.exit_status) == ("token_expired", 4)
    assert "dify-batch auth login" in str(report.error.hint)
    assert report.summary.untouched > 0
    assert max(sim.state()["executions"].values()) == 1


async def test_what_is_said_before_sending(sim: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dify_batch.dify.account.hosts import Host, HostsFile
    from dify_batch.dify.account.vault import FileVault

    host = sim.base_url.removesuffix("/v1")
    token = sign_in(sim, label="stored")
    monkeypatch.delenv("DIFY_TOKEN")
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    ends = "2026-01-01T00:00:00+00:00"  # by our clock it has ended; the server's decides
    HostsFile(tmp_path / "config").change(
        lambda hosts: hosts.with_host(host, Host("account", "admin@example.com", expires_at=ends))
    )
    FileVault(tmp_path / "config").put(host, token)
    settings = Settings(input=str(table(tmp_path, "x")), output=tmp_path / "r.jsonl", app=IDS["app-demo"], dry_run=True)
    report = await run_batch(settings)
    said = {notice["code"]: notice["message"] for notice in report.summary.as_dict()["warnings"]}
    assert said["account_rate"] == "the account surface allows 60 requests a minute: --rate 60/m is taken"
    assert "the sign-in ends at 2026-01-01 00:00 UTC" in said["sign_in_ends"]


async def test_another_app_on_the_same_output_is_refused(sim: Simulator, tmp_path: Path) -> None:
    await batch(tmp_path, IDS["app-demo"], "x")
    with pytest.raises(UsageError) as error:
        await batch(tmp_path, IDS["app-human"])
    assert error.value.code == "other_app"


async def test_the_demo_needs_no_sign_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFY_CONFIG_DIR", str(tmp_path / "config"))
    report = await batch(tmp_path, IDS["app-demo"], "x", demo=True)
    assert (report.error, report.summary.success) == (None, 1)


@pytest.mark.parametrize("more", [{"user": "me"}, {"mode": "blocking"}])
def test_what_contradicts_a_sign_in(tmp_path: Path, more: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Settings(input="data.csv", output=tmp_path / "r.jsonl", app="x", **more)


async def test_nobody_is_signed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFY_CONFIG_DIR", str(tmp_path / "config"))
    for name in ("DIFY_TOKEN", "DIFY_HOST", "DIFY_SERVER"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(AuthError) as error:
        await batch(tmp_path, "x", "one")
    assert error.value.code == "not_logged_in"


async def crash(sim: Simulator, folder: Path, *queries: str, when: str) -> None:
    """A batch that is cut off once so many runs are `when`: running, and it knows them, or queued."""
    task = asyncio.create_task(batch(folder, IDS["app-demo"], *queries))
    journal, event = folder / "r.jsonl.journal", {"running": "started", "queued": "sent"}[when]

    def noted() -> int:
        text = journal.read_text(encoding="utf-8") if journal.exists() else ""
        return text.count(f'"event":"{event}"')

    await soon(lambda: sim.state(runs=False)[when] == noted() == len(queries), f"all are {when}")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_runs_that_were_known_at_a_crash_are_collected(sim: Simulator, tmp_path: Path) -> None:
    sim.configure(latency=1.0)
    await crash(sim, tmp_path, "one", "two", "three", when="running")
    report = await batch(tmp_path, IDS["app-demo"])
    assert (report.error, report.summary.done_before + report.summary.success) == (None, 3)
    assert sim.state()["post_total"] == 3


async def test_requests_that_were_open_at_a_crash_are_never_sent_again(sim: Simulator, tmp_path: Path) -> None:
    sim.configure(workers=0)
    await crash(sim, tmp_path, "one", "two", when="queued")
    report = await batch(tmp_path, IDS["app-demo"], timeout=1.0)
    assert (report.summary.unknown, sim.state()["post_total"]) == (2, 2)
    sim.configure(workers=None)  # they begin after all
    again = await batch(tmp_path, IDS["app-demo"], retry=True, timeout=1.0)
    assert sim.state()["post_total"] == 2
    assert max(sim.state()["executions"].values()) == 1
    assert again.summary.unknown + again.summary.success == 2


async def test_what_the_engine_raises_at_a_start_passes_through(sim: Simulator) -> None:
    """An answer that names another row's run is the engine's matter."""
    import os

    from dify_batch.batch.surface import open_target
    from dify_batch.outcomes import RunRef
    from dify_batch.seams import REAL

    class Foreign(Exception):
        pass

    def on_started(ref: RunRef) -> None:
        raise Foreign(ref.run_id)

    assert os.environ["DIFY_TOKEN"]
    settings = Settings(input="data.csv", output=Path("never.jsonl"), app=IDS["app-demo"])
    async with open_target(settings, None, REAL) as target:
        with pytest.raises(Foreign):
            await target.client.run({"query": "x"}, user="", mode="streaming", timeout=5.0, on_started=on_started)


async def test_a_chat_s_message_may_stand_in_another_column(sim: Simulator, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("id,question\nr1,hello\n", encoding="utf-8")
    report = await batch(tmp_path, IDS["app-chat"], query_column="question")
    assert report.exit_status == 0
    line = results(tmp_path)["r1"]
    assert line["inputs"]["question"] == "hello"
    assert "hello" in line["outputs"]["answer"]
