"""get and describe: formats, pages, filters, all workspaces, what fails half-way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from dify_batch.simulator import Config, Simulator
from tests.support.account_cli import ECHO, FILES, OFF, UNPUBLISHED, AccountCli, no_waiting
from tests.support.accounts import SHAPES


def test_a_table_is_cut_to_the_terminal(cli: AccountCli) -> None:
    done = cli("get", "apps")
    lines = done.out.splitlines()
    assert lines[0].split() == ["NAME", "ID", "MODE", "UPDATED", "DESCRIPTION"]
    assert len(lines) == 51
    assert max(map(len, lines)) <= 120
    assert any(line.endswith("…") for line in lines)
    assert done.err == "fetched 50 of 87 rows\n"


def test_wide_cuts_nothing_and_name_pipes_into_xargs(cli: AccountCli) -> None:
    wide = cli("get", "apps", "--limit", "3", "-o", "wide").out.splitlines()
    assert wide[0].split() == ["NAME", "ID", "MODE", "UPDATED", "TAGS", "BY", "WORKSPACE", "DESCRIPTION"]
    names = cli("get", "apps", "--limit", "3", "-o", "name").out.splitlines()
    assert len(names) == 3
    for name in names:
        assert cli("describe", "app", name).status == 0


def test_json_and_yaml_are_one_document(cli: AccountCli) -> None:
    found = cli("get", "apps", "--limit", "5", "-o", "json").json
    assert (found["limit"], found["total"], found["has_more"], len(found["data"])) == (5, 87, True, 5)
    assert yaml.safe_load(cli("get", "apps", "--limit", "5", "-o", "yaml").out) == found
    times = [row["updated_at"] for row in found["data"]]
    assert times == sorted(times, reverse=True)


def test_pages_are_hidden(cli: AccountCli) -> None:
    cli.sim.reset()
    found = cli("get", "apps", "--limit", "500", "-o", "json").json
    assert len(found["data"]) == found["total"] == 87
    assert cli.sim.state()["requests"]["GET openapi/apps"] == 1  # has_more was false: no second page
    assert len({row["id"] for row in found["data"]}) == 87


def test_several_pages(cli: AccountCli, monkeypatch: pytest.MonkeyPatch) -> None:
    from dify_batch.dify.account import listing

    monkeypatch.setattr(listing, "PAGE", 20)
    found = cli("get", "apps", "--limit", "70", "-o", "json").json
    assert len({row["id"] for row in found["data"]}) == 70


@pytest.mark.parametrize("limit", ["0", "-1", "10001", "ten", "1.5", ""])
def test_a_limit_that_is_none(cli: AccountCli, limit: str) -> None:
    done = cli("get", "apps", f"--limit={limit}", "-o", "json")
    assert (done.status, done.error["code"]) == (2, "config_invalid_value")


def test_filters(cli: AccountCli, shape: str) -> None:
    rows = cli("get", "apps", "--mode", "chat", "--name", "chat 2", "-o", "json").json["data"]
    assert rows
    assert {row["mode"] for row in rows} == {"chat"}
    assert all("chat 2" in row["name"] for row in rows)
    done = cli("get", "apps", "--mode", "poem", "-o", "json")
    assert (done.status, done.error["code"]) == (2, "usage_invalid_flag")
    done = cli("get", "apps", "--tag", "batch", "-o", "json")
    if shape == "A":
        assert all(row["tags"] == [{"name": "batch"}] for row in done.json["data"])
        both = cli("get", "apps", "--tag", "batch", "--tag", "sales", "-o", "json").json
        assert both["data"] == []
    else:
        assert (done.status, done.error["code"]) == (6, "unsupported_endpoint")


def test_all_workspaces(cli: AccountCli) -> None:
    lines = cli("get", "apps", "-A", "--limit", "100").out.splitlines()
    assert lines[0].split()[0] == "WORKSPACE"
    assert {line.split("  ")[0] for line in lines[1:]} == {"Admin's Workspace", "Research", "Support desk"}
    found = cli("get", "apps", "-A", "--limit", "500", "-o", "json").json
    assert len(found["data"]) == found["total"] == 249
    assert next(iter(found["data"][0])) == "workspace_id"
    times = [row["updated_at"] for row in found["data"]]
    assert times == sorted(times, reverse=True)
    done = cli("get", "apps", "-A", "-w", "x", "-o", "json")
    assert (done.status, done.error["code"]) == (2, "usage_invalid_flag")


def test_four_workspaces_at_a_time(cli: AccountCli, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    from dify_batch.dify.account import listing

    now, most = 0, 0

    async def one(*_: object, **__: object) -> Any:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1
        yield listing.Fetched(({"id": "x"},), 1)

    monkeypatch.setattr(listing, "of_workspace", one)
    spaces = [{"id": str(n), "name": f"w{n}"} for n in range(20)]
    found = asyncio.run(listing.of_all(None, spaces, 50, {}))  # type: ignore[arg-type]
    assert (len(found.rows), found.total, most) == (20, 20, 4)


def test_what_was_fetched_before_a_failure_is_shown(cli: AccountCli, monkeypatch: pytest.MonkeyPatch) -> None:
    from dify_batch.dify.account import listing

    waits = no_waiting(monkeypatch)
    monkeypatch.setattr(listing, "PAGE", 20)
    cli.login(label="fresh")  # a token whose minute has not begun
    cli.sim.configure(account_rate=2)
    done = cli("get", "apps", "--limit", "80")
    assert done.status == 1
    assert len(done.out.splitlines()) == 41
    assert done.err.startswith("error: GET ")
    assert "HTTP 429" in done.err
    assert len(waits) == 3
    assert all(wait is not None and 0 < wait <= 60 for wait in waits)


def test_a_partial_document_says_why(cli: AccountCli, monkeypatch: pytest.MonkeyPatch) -> None:
    from dify_batch.dify.account import listing

    no_waiting(monkeypatch)
    monkeypatch.setattr(listing, "PAGE", 20)
    cli.login(label="fresh")
    cli.sim.configure(account_rate=2)
    done = cli("get", "apps", "--limit", "80", "-o", "json")
    found = json.loads(done.out)
    assert (done.status, len(found["data"]), found["error"]["code"]) == (1, 40, "rate_limited")
    assert json.loads(done.err)["error"]["code"] == "rate_limited"
    done = cli("get", "apps", "-o", "json")  # nothing was fetched: the error alone, with its own status
    assert (done.status, done.error["code"]) == (7, "rate_limited")


def test_repetitions_of_what_may_be_repeated(cli: AccountCli, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = no_waiting(monkeypatch)
    cli.sim.faults(server="outage_500")
    done = cli("get", "apps", "-o", "json")
    assert (done.status, done.error["code"]) == (1, "server_5xx")
    assert len(waits) == 3
    cli.sim.faults()
    cli.sim.refuse()
    done = cli("get", "apps", "-o", "json")
    assert (done.status, done.error["code"]) == (1, "network_connection")
    assert len(waits) == 6


def test_one_app(cli: AccountCli) -> None:
    assert cli("get", "app", ECHO).out.splitlines()[1].split()[:3] == ["W1", "echo", ECHO]
    assert cli("get", "app", ECHO, "-o", "name").out == f"{ECHO}\n"
    assert cli("get", "app", ECHO, "-o", "json").json["name"] == "W1 echo"
    done = cli("get", "app", "deea0fa7-0234-4cdc-9ac3-6516c01c3bf1", "-o", "json")
    assert (done.status, done.error["code"]) == (1, "server_4xx_other")
    assert done.error["server"]["message"] == "app not found"
    done = cli("get", "app", OFF, "-o", "json")
    assert (done.status, done.error["code"]) == (4, "access_denied")
    assert "switch the app's API on" in done.error["hint"]


def test_describe(cli: AccountCli) -> None:
    text = cli("describe", "app", ECHO).out
    for part in (
        "Name:         W1 echo",
        "query     paragraph    yes",
        "language  text-input   no        at most 48 characters",
        "one of formal, casual, neutral",
        "File upload:  off",
        f"dify-batch run app {ECHO} --input query=…",
    ):
        assert part in text
    assert "on (document, image, custom; at most 3 files; 15 MB each)" in cli("describe", "app", FILES).out
    chat = cli("get", "apps", "--mode", "chat", "--limit", "1", "-o", "name").out.strip()
    text = cli("describe", "app", chat).out
    assert "Conversation: no features" in text
    assert "suggests:   What is Dify?" in text
    assert set(cli("describe", "app", ECHO, "-o", "json").json) == {"info", "parameters", "input_schema"}
    assert "Inputs:       none" in cli("describe", "app", UNPUBLISHED).out
    for form in ("wide", "name", "table", "xml"):
        done = cli("describe", "app", ECHO, "-o", form)
        assert (done.status, done.out) == (2, "")
        assert f'"{form}" is not supported' in done.err


def test_what_is_known_is_not_asked_again_for_an_hour(cli: AccountCli) -> None:
    def asked() -> int:
        return sum(n for name, n in cli.sim.state()["requests"].items() if name.startswith("GET openapi/apps/{app_id}"))

    cli("get", "app", ECHO)
    assert asked() == 1
    cli("get", "app", ECHO)
    assert asked() == 1
    cli("describe", "app", ECHO)  # the entry had the app's name only, and gains the rest
    cli("describe", "app", ECHO)
    cli("run", "app", ECHO, "--input", "query=x")
    assert asked() == 2
    cli("describe", "app", ECHO, "--refresh")
    assert asked() == 3
    path = cli.folder / "cache" / "apps.json"
    path.write_text("{")
    assert cli("describe", "app", ECHO).status == 0  # a broken cache is no error
    assert asked() == 4
    text = json.loads(path.read_text())
    for entry in text["apps"].values():
        entry["at"] -= 3601
    path.write_text(json.dumps(text))
    cli("describe", "app", ECHO)
    assert asked() == 5


@pytest.mark.parametrize("shape", SHAPES)
def test_an_external_sign_in(shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    with Simulator(Config(api_shape=shape, external_sso=1)) as sim:
        cli = AccountCli(sim, tmp_path, monkeypatch, capsys)
        cli.login("guest")
        found = cli("get", "permitted-external-apps", "--limit", "3", "-o", "json").json
        assert len(found["data"]) == 3
        app = found["data"][0]["id"]
        assert cli("get", "permitted-external-app", app, "-o", "name").out == f"{app}\n"
        assert (
            "Run it:       dify-batch run permitted-external-app" in cli("describe", "permitted-external-app", app).out
        )
        for command, twin in (
            (("get", "apps"), "get permitted-external-apps"),
            (("get", "app", app), f"get permitted-external-app {app}"),
            (("describe", "app", app), f"describe permitted-external-app {app}"),
            (("run", "app", app), f"run permitted-external-app {app}"),
        ):
            sim.reset()
            done = cli(*command, "-o", "json")
            assert (done.status, done.error["code"]) == (2, "illegal_argument")
            assert done.error["hint"] == f"dify-batch {twin}"
            assert sim.state()["requests"] == {}  # before any request
        done = cli("get", "permitted-external-apps", "-o", "wide")
        assert done.status == 2
        for flag in ("-A", "--tag=x", "--workspace=x"):
            assert cli("get", "permitted-external-apps", flag).status == 2


def test_an_account_has_no_external_apps(cli: AccountCli) -> None:
    done = cli("get", "permitted-external-apps", "-o", "json")
    assert (done.status, done.error["hint"]) == (2, "dify-batch get apps")


def test_a_server_that_was_upgraded_between_two_calls(cli: AccountCli, shape: str) -> None:
    assert cli("describe", "app", ECHO, "--refresh").status == 0
    for later in SHAPES:
        cli.sim.configure(api_shape=later)
        assert cli("describe", "app", ECHO, "--refresh").status == 0, (shape, later)
        assert cli("run", "app", ECHO, "--input", "query=x").status == 0, (shape, later)
        assert cli("get", "apps", "-o", "name").status == 0


def test_a_licence_that_has_ended(cli: AccountCli) -> None:
    cli.sim.configure(external_sso=1, licensed=0)
    done = cli("get", "apps", "-o", "json")
    assert (done.status, done.error["http_status"]) == (1, 402)
    assert "licence" in done.error["hint"]
