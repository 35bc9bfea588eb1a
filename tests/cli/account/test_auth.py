"""auth: sign in, status, use, logout; where tokens are kept; what is refused before any request."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any, ClassVar

import keyring
import pytest
import yaml
from keyring.backend import KeyringBackend

from dify_batch.simulator import Config, Simulator
from tests.support.account_cli import DEMO, AccountCli
from tests.support.accounts import SHAPES, plain, sign_in


def hosts(cli: AccountCli) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((cli.folder / "config" / "hosts.yml").read_text())
    return found


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_login_by_the_device_flow(signed_out: AccountCli, shape: str) -> None:
    cli = signed_out
    cli.sim.configure(device_approval=0)
    done = cli("auth", "login", "--host", cli.host)
    assert done.status == 0
    assert f"open {cli.host}/device and enter the code " in done.err
    assert done.out.startswith(f"signed in to {cli.host} as admin@example.com, in workspace Admin's Workspace, until ")
    stored = hosts(cli)
    assert stored["current"] == cli.host
    assert stored["hosts"][cli.host]["shape"] == shape
    assert "dfoa_" not in json.dumps(stored)
    tokens = cli.folder / "config" / "tokens.yml"
    assert (mode_of(tokens), mode_of(tokens.parent)) == (0o600, 0o700)
    token = yaml.safe_load(tokens.read_text())["tokens"][cli.host]
    assert token.startswith("dfoa_")
    assert token not in done.out + done.err
    assert done.err.count("no keyring of the system can be used") == 1
    with plain(cli.sim, token) as http:
        rows = http.get("/account/sessions").json()["data"]
    assert rows[0]["device_label"].startswith("dify-batch on ")


def test_login_for_programs(signed_out: AccountCli) -> None:
    cli = signed_out
    token = sign_in(cli.sim)
    done = cli("auth", "login", "--host", cli.host, "--with-token", "-o", "json", stdin=f"{token}\n")
    found = done.json
    assert (found["host"], found["email"], found["kind"]) == (cli.host, "admin@example.com", "account")
    assert token not in done.out


def test_a_refused_and_an_expired_sign_in(signed_out: AccountCli, monkeypatch: pytest.MonkeyPatch) -> None:
    from dify_batch.dify.account.client import AccountClient

    cli = signed_out
    for answer, code, words in (
        ("access_denied", "access_denied", "refused on the page"),
        ("expired_token", "auth_expired", "nobody approved it"),
    ):

        async def token(self: AccountClient, device_code: str, answer: str = answer) -> dict[str, str]:
            return {"error": answer}

        monkeypatch.setattr(AccountClient, "device_token", token)
        done = cli("auth", "login", "--host", cli.host, "--no-browser", "-o", "json")
        assert done.status == 4
        error = json.loads(done.err.splitlines()[-1])["error"]
        assert (error["code"], words in error["message"]) == (code, True)
    assert not (cli.folder / "config" / "hosts.yml").exists()


def test_status_says_who_where_until_when(cli: AccountCli, shape: str) -> None:
    done = cli("auth", "status")
    for part in (cli.host, "admin@example.com (account)", "Admin's Workspace", "the stored sign-in"):
        assert part in done.out
    found = cli("auth", "status", "-o", "json").json
    assert (found["shape"], found["kind"], found["from"]) == (shape, "account", "file")
    assert len(found["workspaces"]) == 3
    assert yaml.safe_load(cli("auth", "status", "-o", "yaml").out) == found


def test_use_a_workspace_by_name_and_id(cli: AccountCli) -> None:
    research = next(w for w in cli("auth", "status", "-o", "json").json["workspaces"] if w["name"] == "Research")
    assert cli("auth", "use", "Research").out == "commands use the workspace Research now\n"
    assert cli("auth", "status", "-o", "json").json["workspace"]["id"] == research["id"]
    rows = cli("get", "apps", "-o", "json").json["data"]
    assert {row["workspace_name"] for row in rows} == {"Research"}
    assert cli("auth", "use", research["id"]).status == 0
    done = cli("auth", "use", "Nowhere", "-o", "json")
    assert (done.status, done.error["code"]) == (2, "illegal_argument")
    assert "Research" in done.error["hint"]


def test_use_a_host(cli: AccountCli) -> None:
    with Simulator(Config(device_interval=0)) as other:
        second = other.base_url.removesuffix("/v1")
        token = sign_in(other)
        cli("auth", "login", "--host", second, "--with-token", stdin=token)
        assert hosts(cli)["current"] == second
        assert cli("auth", "use", cli.host).out == f"commands use {cli.host} now\n"
        assert hosts(cli)["current"] == cli.host
        assert cli("auth", "status", "-o", "json").json["others"] == [second]
        assert cli("auth", "logout", "--host", second).status == 0
    assert list(hosts(cli)["hosts"]) == [cli.host]


def test_logout_ends_the_session_there_and_forgets_it_here(cli: AccountCli) -> None:
    found = cli("auth", "logout", "-o", "json").json
    assert (found["host"], found["revoked"]) == (cli.host, True)
    with plain(cli.sim, cli.token) as http:
        assert http.get("/account").status_code in (401, 500)
    assert cli.token not in (cli.folder / "config" / "tokens.yml").read_text()
    done = cli("get", "apps", "-o", "json")
    assert (done.status, done.error["code"]) == (4, "not_logged_in")
    assert cli("auth", "logout").status == 4


def test_logout_forgets_where_the_server_is_away(cli: AccountCli, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.support.account_cli import no_waiting

    no_waiting(monkeypatch)
    cli.sim.refuse()
    done = cli("auth", "logout")
    assert (done.status, done.out) == (0, f"signed out of {cli.host}\n")
    assert "the session goes on there until its end" in done.err
    assert hosts(cli)["hosts"] == {}


class Store(KeyringBackend):
    """A keyring that stores, or one that does not open."""

    priority = 5
    kept: ClassVar[dict[tuple[str, str], str]] = {}
    locked = False

    def get_password(self, service: str, username: str) -> str | None:
        if self.locked:
            raise RuntimeError("locked")
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        if self.locked:
            raise RuntimeError(f"locked, and here is a secret: {password}")
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.kept[service, username]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    backend = Store()  # type: ignore[no-untyped-call]
    monkeypatch.setattr(Store, "kept", {})
    monkeypatch.setattr(keyring, "get_keyring", lambda: backend)
    for name in ("get_password", "set_password", "delete_password"):
        monkeypatch.setattr(keyring, name, getattr(backend, name))
    return backend


def test_a_keyring_is_used_where_there_is_one(signed_out: AccountCli, store: Store) -> None:
    cli = signed_out
    cli.login()
    assert list(store.kept) == [("dify-batch", cli.host)]
    assert not (cli.folder / "config" / "tokens.yml").exists()
    assert cli("get", "apps", "-o", "name").status == 0
    assert cli("auth", "logout").status == 0
    assert store.kept == {}


def test_a_locked_keyring_falls_back_and_says_so_once(signed_out: AccountCli, store: Store) -> None:
    cli = signed_out
    store.locked = True
    token = sign_in(cli.sim)
    done = cli("auth", "login", "--host", cli.host, "--with-token", stdin=token)
    assert done.err.count("the keyring does not open") == 1
    assert token not in done.err
    assert "keyring" not in cli("auth", "status").err
    assert cli("auth", "logout").status == 0


def test_no_keyring_by_flag(signed_out: AccountCli, store: Store) -> None:
    token = sign_in(signed_out.sim)
    done = signed_out("auth", "login", "--host", signed_out.host, "--with-token", "--no-keyring", stdin=token)
    assert done.status == 0
    assert store.kept == {}


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ("", "config_invalid_value"),
        ("two words\n", "config_invalid_value"),
        ("app-Ab12Cd34Ef56Gh78\n", "config_invalid_value"),
    ],
)
def test_what_is_no_token(signed_out: AccountCli, given: str, code: str) -> None:
    done = signed_out("auth", "login", "--host", signed_out.host, "--with-token", "-o", "json", stdin=given)
    assert (done.status, done.error["code"]) == (2, code)
    assert given.strip() == "" or given.strip() not in done.err


@pytest.mark.parametrize("name", ["hosts.yml", "tokens.yml"])
@pytest.mark.parametrize("text", ["hosts: [", "- a\n- b\n", "\x00"])
def test_a_broken_file_is_named(cli: AccountCli, name: str, text: str) -> None:
    path = cli.folder / "config" / name
    path.write_text(text)
    done = cli("get", "apps", "-o", "json")
    assert (done.status, done.error["code"]) == (1, "config_broken")
    assert str(path) in done.error["message"]


def test_a_newer_file_is_refused(cli: AccountCli) -> None:
    (cli.folder / "config" / "hosts.yml").write_text("schema: 2\n")
    done = cli("auth", "status", "-o", "json")
    assert (done.status, done.error["code"]) == (6, "config_schema_unsupported")


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("http://dify.example.com", "in the clear"),
        ("ftp://dify.example.com", "no address"),
        ("https://user:pw@dify.example.com", "no address"),
        ("https://dify.example.com/a/b", "has a path"),
        ("https://", "no address"),
    ],
)
def test_hosts_that_are_refused_before_any_request(signed_out: AccountCli, host: str, words: str) -> None:
    done = signed_out("auth", "login", "--host", host, "-o", "json")
    assert (done.status, words in done.error["message"]) == (2, True)
    assert "pw@" not in done.err


def test_insecure_http_is_allowed_by_name_and_remembered(
    signed_out: AccountCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dify_batch.dify.account import session

    cli = signed_out
    monkeypatch.setattr(session, "_loopback", lambda name: False)  # this machine stands for another
    token = sign_in(cli.sim)
    arguments = ("auth", "login", "--host", cli.host, "--with-token")
    assert cli(*arguments, stdin=token).status == 2
    assert cli(*arguments, "--insecure-http", stdin=token).status == 0
    assert cli("get", "apps", "--host", cli.host, "-o", "name").status == 0


def test_a_page_of_another_host_is_not_opened(signed_out: AccountCli, monkeypatch: pytest.MonkeyPatch) -> None:
    from dify_batch.dify.account.client import AccountClient

    async def code(self: AccountClient, label: str) -> dict[str, Any]:
        return {"device_code": "d", "user_code": "AAAA-BBBB", "verification_uri": "https://evil.example/device"}

    monkeypatch.setattr(AccountClient, "device_code", code)
    done = signed_out("auth", "login", "--host", signed_out.host, "-o", "json")
    assert (done.status, done.error["code"]) == (1, "unsafe_address")


def test_the_environment_needs_no_file(signed_out: AccountCli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli = signed_out
    cli.token = sign_in(cli.sim)
    monkeypatch.setenv("DIFY_TOKEN", cli.token)
    for name in ("DIFY_HOST", "DIFY_SERVER"):
        monkeypatch.setenv(name, cli.host)
        found = cli("auth", "status", "-o", "json").json
        assert (found["from"], found["email"]) == ("environment", "admin@example.com")
        done = cli("get", "apps", "-o", "json")
        assert (done.status, done.error["code"]) == (2, "workspace_required")
        monkeypatch.setenv("DIFY_WORKSPACE_ID", found["workspaces"][0]["id"])
        assert cli("get", "apps", "-o", "name").status == 0
        monkeypatch.delenv("DIFY_WORKSPACE_ID")
        monkeypatch.delenv(name)
    assert not (cli.folder / "config").exists()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_kind_of_a_token_is_asked_of_the_server(
    shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with Simulator(Config(api_shape=shape)) as sim:
        cli = AccountCli(sim, tmp_path, monkeypatch, capsys)
        sim.adopt("pat_whatever-the-prefix")  # a personal access token
        monkeypatch.setenv("DIFY_TOKEN", "pat_whatever-the-prefix")
        monkeypatch.setenv("DIFY_HOST", cli.host)
        assert cli("describe", "app", DEMO, "-o", "json").json["info"]["name"] == "Demo"
        done = cli("get", "permitted-external-apps", "-o", "json")
        assert (done.status, done.error["code"]) == (2, "illegal_argument")


def test_a_token_past_its_end_is_told_in_each_shape(cli: AccountCli) -> None:
    cli.sim.configure(clock_skew=15 * 86400)
    for command in (("auth", "status"), ("get", "apps"), ("run", "app", DEMO, "--input", "query=x")):
        done = cli(*command, "-o", "json")
        assert done.status == 4
        assert done.error["code"] in ("token_expired", "auth_expired")
        assert done.error["hint"] == "sign in again: dify-batch auth login"


def test_two_processes_lose_nothing_of_each_other(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from dify_batch.dify.account.hosts import Host, HostsFile

    files = [HostsFile(tmp_path) for _ in range(4)]

    def add(number: int) -> None:
        name = f"https://h{number}.example"
        files[number % 4].change(lambda now: now.with_host(name, Host("account", f"{number}@example.com")))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(40)))
    assert len(HostsFile(tmp_path).read().entries) == 40
