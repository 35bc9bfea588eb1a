"""run and resume: every kind of app in every shape; what a run comes to; what is said on which channel."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from dify_batch.simulator import Config, Simulator
from tests.support.account_cli import CHATFLOW, DEMO, ECHO, FILES, HUMAN, UNPUBLISHED, AccountCli, no_waiting
from tests.support.accounts import SHAPES
from tests.support.simhelp import eventually


def first(cli: AccountCli, mode: str) -> str:
    return cli("get", "apps", "--mode", mode, "--limit", "1", "-o", "name").out.strip()


def test_a_workflow(cli: AccountCli) -> None:
    done = cli("run", "app", DEMO, "--input", "query=hello")
    assert (done.status, done.out, done.err) == (0, "Echo: hello\n", "")
    found = cli("run", "app", DEMO, "--input", "query=hello", "-o", "json").json
    assert (found["status"], found["outputs"]) == ("succeeded", {"answer": "Echo: hello"})
    assert {"workflow_run_id", "task_id", "elapsed_time", "total_tokens"} <= found.keys()
    text = cli("run", "app", DEMO, "--input", "query=hello", "-o", "yaml").out
    assert yaml.safe_load(text)["outputs"] == {"answer": "Echo: hello"}


def test_inputs_are_read_by_their_fields(cli: AccountCli, tmp_path: Path) -> None:
    flags = ("--input", "query=a", "--input", "n=3", "--input", "flag=yes", "--input", 'meta={"a": 1}')
    found = cli("run", "app", ECHO, *flags, "--input", "tone=formal", "-o", "json").json
    wanted = {"query": "a", "n": 3, "flag": True, "meta": {"a": 1}, "tone": "formal", "language": None}
    assert found["outputs"] == wanted
    path = tmp_path / "in.json"
    path.write_text('{"query": "from a file", "n": 1.5}')
    found = cli("run", "app", ECHO, "--inputs", f"@{path}", "--input", "n=2", "-o", "json").json
    assert (found["outputs"]["query"], found["outputs"]["n"]) == ("from a file", 2)


@pytest.mark.parametrize(
    "flags",
    [
        ("--input", "query"),
        ("--input", "=x"),
        ("--input", "n=three"),
        ("--input", "meta=[1]"),
        ("--inputs", "[1]"),
        ("--inputs", "{"),
        ("--inputs", "@/nowhere.json"),
        ("--file", "doc=/nowhere.txt"),
        ("--stream",),
    ],
)
def test_what_cannot_be_an_input_is_told_before_anything_is_sent(cli: AccountCli, flags: tuple[str, ...]) -> None:
    done = cli("run", "app", ECHO, *flags, "-o", "json")
    assert (done.status, done.error["code"]) == (2, "usage_invalid_flag")
    assert cli.sim.state()["post_total"] == 0


def test_unknown_names_are_warned_of_with_the_nearest(cli: AccountCli) -> None:
    done = cli("run", "app", ECHO, "--input", "query=x", "--input", "langage=en")
    assert done.err == 'warning: the app has no input "langage" and drops it; did you mean language?\n'
    found = cli("run", "app", ECHO, "--input", "query=x", "--input", "zzz=1", "-o", "json").json
    assert found["warnings"] == ['the app has no input "zzz" and drops it']


def test_a_missing_input_names_what_is_required_and_forgets_the_app(cli: AccountCli) -> None:
    done = cli("run", "app", DEMO, "-o", "json")
    assert (done.status, done.error["code"]) == (1, "server_4xx_other")
    assert done.error["message"] == "the run was refused: query is required in input form"
    assert done.error["hint"] == "the app requires: query"
    assert "Demo" not in (cli.folder / "cache" / "apps.json").read_text()


def test_a_422_forgets_the_app(cli: AccountCli, shape: str) -> None:
    path = cli.folder / "cache" / "apps.json"
    cli("describe", "app", CHATFLOW)
    known = json.loads(path.read_text())
    (entry,) = known["apps"].values()
    entry["info"]["mode"] = "workflow"  # as it was when it was asked for
    path.write_text(json.dumps(known))
    done = cli("run", "app", CHATFLOW, "-o", "json")
    assert (done.status, done.error["http_status"]) == (1, 422)
    assert done.error["hint"] == "the app requires no input"
    assert json.loads(path.read_text())["apps"] == {}


@pytest.mark.parametrize("mode", ["chat", "agent-chat", "advanced-chat"])
def test_a_chat_prints_its_answer_and_how_to_go_on(cli: AccountCli, mode: str) -> None:
    app = first(cli, mode)
    done = cli("run", "app", app, "Hi there")
    assert (done.status, done.out) == (0, "Echo: Hi there\n")
    assert done.err.startswith(f"go on with: dify-batch run app {app} MESSAGE --conversation ")
    conversation = done.err.split()[-1]
    found = cli("run", "app", app, "more", "--conversation", conversation, "-o", "json").json
    assert (found["answer"], found["conversation_id"]) == ("Echo: more", conversation)
    assert found["message_id"]
    done = cli("run", "app", app, "-o", "json")
    assert (done.status, done.error["code"]) == (2, "usage_missing_arg")
    done = cli("run", "app", app, "x", "--conversation", "deea0fa7-0234-4cdc-9ac3-6516c01c3bf1", "-o", "json")
    assert (done.status, done.error["http_status"]) == (1, 404)


def test_a_completion(cli: AccountCli) -> None:
    app = first(cli, "completion")
    done = cli("run", "app", app, "--input", "topic=cats")
    assert (done.status, done.out, done.err) == (0, "Echo: cats\n", "")
    found = cli("run", "app", app, "--input", "topic=cats", "-o", "json").json
    assert found["usage"]["total_tokens"] == found["total_tokens"] > 0
    assert "conversation_id" not in found


def test_text_streams_as_it_arrives(cli: AccountCli) -> None:
    done = cli("run", "app", DEMO, "--input", "query=hello", "--stream")
    assert (done.status, done.out) == (0, "Echo: hello\n")
    done = cli("run", "app", first(cli, "chat"), "hello", "--stream")
    assert done.out == "Echo: hello\n"


def test_a_workflow_takes_no_message(cli: AccountCli) -> None:
    done = cli("run", "app", DEMO, "hello", "-o", "json")
    assert (done.status, done.error["code"]) == (2, "usage_invalid_flag")
    assert done.error["message"] == "a workflow takes no message"
    assert cli("run", "app", DEMO, "--conversation", "x").status == 2
    for form in ("wide", "name", "table"):
        assert cli("run", "app", DEMO, "-o", form).status == 2


def test_files(cli: AccountCli, tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    flags = ("--file", f"doc={tmp_path / 'a.txt'}", "--file", f"docs={tmp_path / 'b.txt'}")
    found = cli("run", "app", FILES, *flags, "--file", "docs=https://x.example/c.txt", "-o", "json").json
    assert found["outputs"]["doc"]["filename"] == "a.txt"
    assert [each["filename"] for each in found["outputs"]["docs"]] == ["b.txt", "c.txt"]


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ("failed", "run_failed", "the run failed (run "),
        ("stopped", "run_stopped", "the run was stopped (run "),
        ("cut_after_accept", "run_unknown", "the request was lost, so the run may have begun"),
        ("error_502_run", "server_5xx", "HTTP 502"),
        ("throttle_400", "server_4xx_other", "Too many requests"),
    ],
)
def test_bad_ends_are_exit_1(cli: AccountCli, fault: str, code: str, words: str) -> None:
    cli.sim.faults(all=fault)
    done = cli("run", "app", DEMO, "--input", "query=x", "-o", "json")
    assert (done.status, done.error["code"]) == (1, code)
    assert words in done.error["message"]
    assert cli.sim.state()["post_total"] == 1  # a POST is never sent again by itself
    text = cli("run", "app", DEMO, "--input", "query=x")
    assert (text.status, text.out) == (1, "")
    assert words in text.err


def test_partial_success_is_told(cli: AccountCli) -> None:
    cli.sim.faults(all="partial")
    done = cli("run", "app", DEMO, "--input", "query=x")
    assert (done.status, done.out) == (0, "Echo: x\n")
    assert "partial-succeeded" in done.err
    assert cli("run", "app", DEMO, "--input", "query=x", "-o", "json").json["status"] == "partial-succeeded"


@pytest.mark.parametrize("fault", ["cut_after_start", "cut_mid_stream", "clean_end", "error_event_after_start"])
def test_a_stream_that_breaks_is_followed(cli: AccountCli, fault: str) -> None:
    cli.sim.faults(all=fault)
    done = cli("run", "app", DEMO, "--input", "query=x")
    assert (done.status, done.out, done.err) == (0, "Echo: x\n", "")
    assert cli.sim.state()["requests"]["GET openapi/apps/{app_id}/tasks/{task_id}/events"] >= 1


def test_pause_and_resume(cli: AccountCli) -> None:
    done = cli("run", "app", HUMAN, "--input", "query=please")
    assert done.status == 0
    assert "paused: the run waits for a person" in done.out
    assert "Please review: please" in done.out
    assert "actions: approve, reject" in done.out
    command = done.err.removeprefix("go on with: ").split()
    assert command[:4] == ["dify-batch", "resume", "app", HUMAN]
    run_id, form = command[4], done.out.split("form:")[1].strip()
    shown = cli("resume", "app", HUMAN, run_id)
    assert (shown.status, "Please review: please" in shown.out) == (0, True)
    assert shown.err.startswith("answer it: dify-batch resume app")
    assert cli("resume", "app", HUMAN, form, "-o", "json").json["status"] == "paused"
    for flags, words in ((("--action", "burn"), '"burn"'), (("--action", "approve", "--input", "x=1"), '"x"')):
        bad = cli("resume", "app", HUMAN, run_id, *flags, "-o", "json")
        assert (bad.status, words in bad.error["message"]) == (2, True)
    done = cli("resume", "app", HUMAN, run_id, "--action", "approve", "--input", "comment=fine")
    assert (done.status, done.out) == (0, "comment: fine\nquery: please\n")
    found = cli("resume", "app", HUMAN, run_id, "-o", "json").json  # it has ended: its end is shown again
    assert (found["status"], found["outputs"]) == ("succeeded", {"comment": "fine", "query": "please"})
    twice = cli("resume", "app", HUMAN, form, "--action", "approve", "-o", "json")
    assert (twice.status, twice.error["http_status"]) == (1, 412)
    assert twice.error["server"]["code"] == "human_input_form_submitted"


def test_a_form_s_token_is_enough_and_its_defaults_count(cli: AccountCli) -> None:
    paused = cli("run", "app", HUMAN, "--input", "query=q", "-o", "json").json
    assert paused["status"] == "paused"
    token = paused["forms"][0]["form_token"]
    done = cli("resume", "app", HUMAN, token, "--action", "approve", "-o", "json")
    assert done.json["outputs"] == {"comment": "ok", "query": "q"}
    other = cli("run", "app", HUMAN, "--input", "query=q", "-o", "json").json["forms"][0]["form_token"]
    (cli.folder / "cache" / "apps.json").unlink()
    lost = cli("resume", "app", HUMAN, other, "--action", "approve", "-o", "json")
    assert (lost.status, lost.error["code"]) == (1, "run_unknown")


def test_an_unpublished_app(cli: AccountCli, monkeypatch: pytest.MonkeyPatch) -> None:
    no_waiting(monkeypatch)
    done = cli("run", "app", UNPUBLISHED, "-o", "json")
    assert (done.status, done.error["code"]) == (1, "server_5xx")  # and not a dead token


def test_the_limit_is_waited_for_only_where_asked(cli: AccountCli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("describe", "app", DEMO)
    waits = no_waiting(monkeypatch, then=lambda: cli.sim.configure(account_rate=None))
    cli.sim.configure(account_rate=0)
    done = cli("run", "app", DEMO, "--input", "query=x", "-o", "json")
    assert (done.status, done.error["code"], waits) == (7, "rate_limited", [])
    assert done.error["hint"].startswith("wait ")
    found = cli("run", "app", DEMO, "--input", "query=x", "--retry-on-limit", "-o", "json").json
    assert found["status"] == "succeeded"
    assert len(waits) == 1
    assert cli.sim.state()["post_total"] == 1


def test_a_plan_s_quota_is_not_waited_for(cli: AccountCli, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = no_waiting(monkeypatch)
    cli.sim.faults(all="quota")
    done = cli("run", "app", DEMO, "--input", "query=x", "--retry-on-limit", "-o", "json")
    assert (done.status, done.error["code"], waits) == (7, "rate_limited", [])


def interrupt_when(holds: Any, times: int = 1, number: signal.Signals = signal.SIGINT) -> threading.Thread:
    def wait() -> None:
        eventually(holds)
        for _ in range(times):
            os.kill(os.getpid(), number)
            threading.Event().wait(0.1)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_sigterm_stops_it_as_well(cli: AccountCli) -> None:
    cli("describe", "app", DEMO)
    cli.sim.configure(latency=30)
    thread = interrupt_when(lambda: cli.sim.state()["running"], number=signal.SIGTERM)
    done = cli("run", "app", DEMO, "--input", "query=x", "-o", "json")
    thread.join()
    assert (done.status, done.error["code"]) == (143, "terminated")


@pytest.mark.parametrize("form", ["text", "json"])
def test_ctrl_c_stops_the_run_on_the_server_and_waits_for_its_end(cli: AccountCli, form: str) -> None:
    cli("describe", "app", DEMO)
    cli.sim.configure(latency=30)
    thread = interrupt_when(lambda: cli.sim.state()["running"])
    done = cli("run", "app", DEMO, "--input", "query=x", "-o", form)
    thread.join()
    assert done.status == 130
    assert "the run was stopped on the server (run " in done.err
    assert ("stopping the run on the server" in done.err) == (form == "text")
    eventually(lambda: [run["status"] for run in cli.sim.state()["runs"]] == ["stopped"])
    state = cli.sim.state()
    assert state["requests"].keys() & {
        "POST openapi/apps/{app_id}/tasks/{task_id}/stop", "POST openapi/apps/{app_id}/tasks/{task_id}:stop",
    }  # fmt: skip


def test_a_chat_is_stopped_as_well(cli: AccountCli) -> None:
    app = first(cli, "chat")
    cli("describe", "app", app)
    cli.sim.configure(latency=30)
    posted = lambda: any(name.endswith("run") for name in cli.sim.state()["requests"])  # noqa: E731
    thread = interrupt_when(posted)
    done = cli("run", "app", app, "hello")
    thread.join()
    assert done.status == 130


def test_a_second_ctrl_c_leaves(cli: AccountCli) -> None:
    cli("describe", "app", DEMO)
    cli.sim.configure(latency=30, workers=0)  # the run waits in the queue: it has no task to stop yet
    thread = interrupt_when(lambda: cli.sim.state()["queued"], times=2)
    done = cli("run", "app", DEMO, "--input", "query=x")
    thread.join()
    assert done.status == 130
    assert cli.sim.state()["queued"] == 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("own_path", [1, 2])
def test_an_external_sign_in_runs(
    shape: str, own_path: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with Simulator(Config(api_shape=shape, external_sso=own_path, latency=0)) as sim:
        cli = AccountCli(sim, tmp_path, monkeypatch, capsys)
        cli.login("guest")
        done = cli("run", "permitted-external-app", DEMO, "--input", "query=x")
        assert (done.status, done.out) == (0, "Echo: x\n")
        posts = [name for name in sim.state()["requests"] if name.startswith("POST") and name.endswith("run")]
        if shape == "A" and own_path == 2:
            assert posts == ["POST openapi/permitted-external-apps/{app_id}/run"]
        done = cli("run", "permitted-external-app", HUMAN, "--input", "query=x", "-o", "json")
        paused = done.json["forms"][0]["form_token"]
        assert cli("resume", "app", HUMAN, paused, "--action", "approve", "-o", "json").json["status"] == "succeeded"


@pytest.mark.parametrize("shape", SHAPES)
def test_the_demo_needs_no_server(shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    with Simulator(Config(api_shape=shape)) as unused:
        cli = AccountCli(unused, tmp_path, monkeypatch, capsys)
        host = "demo" if shape == "A" else f"demo-{shape}"
        start = ("--demo",) if shape == "A" else ()
        done = cli(*start, "auth", "login", *(() if start else ("--host", host)))
        assert (done.status, "the demo approves it by itself" in done.err) == (0, True)
        assert cli("auth", "status", "-o", "json").json["shape"] == shape
        assert cli("get", "apps", "--limit", "2", "-o", "name").status == 0
        assert cli("run", "app", DEMO, "--input", "query=x").out == "Echo: x\n"
        assert cli("auth", "logout").status == 0
        assert unused.state()["requests"] == {}


def test_redirects_are_not_followed(signed_out: AccountCli, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    from dify_batch.dify.account import exchange

    asked: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(302, headers={"location": "https://elsewhere.example/"})

    monkeypatch.setattr(exchange, "Transport", lambda host: httpx.MockTransport(handler))
    monkeypatch.setenv("DIFY_TOKEN", "dfoa_secret")
    monkeypatch.setenv("DIFY_HOST", "https://dify.example.com")
    done = signed_out("get", "apps", "-w", "w", "-o", "json")
    assert done.status == 1
    assert "redirects are not followed" in done.error["hint"]
    assert asked == ["https://dify.example.com/openapi/v1/_version"]
    assert "dfoa_secret" not in done.err


def test_help_for_programs(signed_out: AccountCli) -> None:
    from dify_batch.errors import EXIT_OF_CODE
    from dify_batch.flags import FLAGS

    found = signed_out("help", "-o", "json").json
    commands = {each["command"]: each for each in found["commands"]}
    assert commands["auth logout"]["effect"] == "destructive"
    assert commands["run app"]["effect"] == commands[""]["effect"] == "write"
    assert commands["get apps"]["effect"] == commands["status"]["effect"] == "read"
    flags = {name for flag in commands[""]["flags"] for name in flag["names"]}
    assert flags >= {flag.name for flag in FLAGS if flag.names and flag.dest != "help"}
    assert found["error_codes"] == {code: int(status) for code, status in EXIT_OF_CODE.items()}
    assert {"0", "1", "2", "4", "6", "7", "75", "130", "143"} == set(found["exit_statuses"])
    assert any(flag["names"] == ["--tag"] and flag["repeatable"] for flag in commands["get apps"]["flags"])
    assert "destructive" in signed_out("help").out
