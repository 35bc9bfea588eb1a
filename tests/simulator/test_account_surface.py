"""The simulated account surface: shape A against the recorded exchanges, field by field; what B and C do otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from dify_batch.simulator import Config, Simulator
from tests.support import accounts
from tests.support.accounts import IDS, begin, decide, events_of, plain, poll, sign_in, translated, workspace
from tests.support.simhelp import load, normal, normal_body, normal_stream, recorded_stream

HEADERS = (
    "content-type", "www-authenticate", "transfer-encoding", "cache-control", "x-version", "x-env", "x-frame-options",
    "content-security-policy",
)  # fmt: skip
WORKSPACE = "1082254a-b542-4e15-9dbc-c2f61b2f54d1"
FAST = Config(latency=0.0, linger_after_finish=0.0, snapshot_delay=0.0, hold_after_error=0.05, account_rate=None)


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    with Simulator(FAST) as running:
        yield running


@pytest.fixture(scope="module")
def token(sim: Simulator) -> str:
    return sign_in(sim)


def ask(sim: Simulator, name: str, token: str | None, **ids: str) -> tuple[httpx.Response, dict[str, Any]]:
    """A recorded request, put to the simulator; `ids`: old text -> new, in path and body."""
    exchange = load(name)
    method, path, body, kind = accounts.request_of(name, exchange)
    path = translated(path, workspace(sim, token) if token else "")
    headers = {"Content-Type": kind} if kind else {}
    content = body
    for old, new in ids.items():
        path = path.replace(old, new)
        content = None if content is None else content.replace(old.encode(), new.encode())
    with plain(sim, token) as http:
        return http.request(method, path, content=content, headers=headers), exchange


def same_head(response: httpx.Response, exchange: dict[str, Any]) -> None:
    recorded = {k.lower(): v for k, v in exchange["response"]["headers"].items()}
    assert response.status_code == exchange["response"]["status"]
    assert {n: response.headers.get(n) for n in HEADERS} == {n: recorded.get(n) for n in HEADERS}


@pytest.mark.parametrize(
    "name",
    [
        "27-health", "27-version", "27d-account", "27f2-apps-no-workspace", "27f6-apps-limit-0",
        "27f7-apps-limit-500", "27f8-apps-limit-200", "27f10-apps-mode-bad", "27g3-describe-bad-field",
        "27g6-describe-unknown", "27g7-describe-malformed", "27g8-describe-unknown-param",
        "27g9-describe-api-disabled", "27h-unknown-path", "27h2-method", "27i4-run-no-inputs",
        "27i5-run-unknown-app", "27i9-run-query-for-workflow", "27i10-run-unpublished",
        "27i13-run-unknown-workflow-id", "27i14-run-malformed-workflow-id", "27i15-run-malformed-json",
        "27i17-run-api-disabled", "27j4-events-unknown", "27j5-events-malformed", "27k4-stop-unknown",
        "27m3-upload-no-file", "27n-permitted-external-apps-with-account-token",
    ],
)  # fmt: skip
def test_it_answers_as_recorded(sim: Simulator, token: str, name: str) -> None:
    response, exchange = ask(sim, name, token)
    same_head(response, exchange)
    body, recorded = normal_body(response.text), normal_body(exchange["response"]["body"])
    if name == "27d-account":  # the simulated account has three workspaces
        assert [key for key, _ in body[0]] == [key for key, _ in recorded[0]]
    else:
        assert body == recorded


@pytest.mark.parametrize("name", ["27g-describe-W1", "27g2-describe-info", "27g4-describe-W5", "27g5-describe-W6"])
def test_descriptions_are_as_recorded(sim: Simulator, token: str, name: str) -> None:
    response, exchange = ask(sim, name, token)
    same_head(response, exchange)
    found, recorded = response.json(), httpx.Response(200, text=exchange["response"]["body"]).json()
    for each in (found, recorded):
        each["info"]["updated_at"] = "T"
    assert normal(found) == normal(recorded)


def test_no_token_and_a_dead_one(sim: Simulator) -> None:
    for name, text in (("27d2-account-no-token", None), ("27d3-account-bad-token", "dfoa_unknown")):
        exchange = load(name)
        with plain(sim, text) as http:
            response = http.get("/account")
        same_head(response, exchange)
        assert normal_body(response.text) == normal_body(exchange["response"]["body"])


def test_a_list_has_the_recorded_fields(sim: Simulator, token: str) -> None:
    response, exchange = ask(sim, "27f12-apps-tag", token)
    found, recorded = response.json(), httpx.Response(200, text=exchange["response"]["body"]).json()
    assert list(found) == list(recorded)
    assert list(found["data"][0]) == list(recorded["data"][0])
    assert found["data"][0]["name"] == "W1 echo"


def test_sign_in_is_as_recorded() -> None:
    with Simulator(FAST) as sim:
        device = begin(sim)
        assert list(device) == [key for key, _ in normal(_body("27a-device-code"))]
        assert (device["expires_in"], device["interval"]) == (900, 5)
        with plain(sim) as http:
            unknown = http.post("/oauth/device/code", json={"client_id": "mybatch", "device_label": "x"})
            assert (unknown.status_code, unknown.json()) == (400, _body("27a2-device-code-unknown-client"))
            seen = http.get(f"/oauth/device/lookup?user_code={device['user_code']}").json()
            assert list(seen) == list(_body("27b3-device-lookup"))
        for name in ("27b-device-token-pending", "27b2-device-token-slow-down"):
            response = poll(sim, device["device_code"])
            assert (response.status_code, response.json()) == (400, _body(name))
        decide(sim, device["user_code"])
        got = poll(sim, device["device_code"]).json()
        assert list(got) == list(_body("27c-device-token"))
        again = poll(sim, device["device_code"])
        assert (again.status_code, again.json()) == (400, _body("27c2-device-token-again"))
        with plain(sim, got["token"]) as http:
            rows = http.get("/account/sessions").json()["data"]
            assert list(rows[0]) == list(_body("27d5-account-sessions")["data"][0])
            assert http.delete("/account/sessions/self").json() == _body("27o-revoke-self")
            assert http.get("/account").json() == _body("27o3-account-revoked")


def _body(name: str) -> Any:
    return httpx.Response(200, text=load(name)["response"]["body"]).json()


def test_a_refused_sign_in_and_one_that_nobody_answers() -> None:
    with Simulator(FAST) as sim:
        device = begin(sim)
        decide(sim, device["user_code"], "deny")
        assert poll(sim, device["device_code"]).json() == {"error": "access_denied"}
    with Simulator(Config(device_approval=0)) as sim:
        assert poll(sim, begin(sim)["device_code"]).status_code == 200


@pytest.mark.parametrize("name", ["27i-run", "27i3-run-missing-input", "27l-human-input"])
def test_streams_are_as_recorded(sim: Simulator, token: str, name: str) -> None:
    response, exchange = ask(sim, name, token)
    same_head(response, exchange)
    found, recorded = normal_stream(response.text), normal_stream(recorded_stream(exchange))
    assert found == recorded


def test_a_chatflow_tells_its_message_as_recorded(sim: Simulator, token: str) -> None:
    exchange = load("27i18-run-chatflow")
    listed = [e for e in _apps(sim, token) if e["mode"] == "advanced-chat"]
    with plain(sim, token) as http:
        text = http.post(f"/apps/{listed[-1]['id']}/run", json={"inputs": {}, "query": "hi"}).text
    found, recorded = events_of(text), events_of(recorded_stream(exchange))
    for name in ("workflow_started", "message", "message_end", "workflow_finished"):
        mine, theirs = (next(e for e in each if e["event"] == name) for each in (found, recorded))
        assert list(mine) == list(theirs), name
    assert found[-1]["data"]["outputs"] == {"answer": "Echo: hi", "files": []}
    assert found[-1]["data"]["created_by"].keys() == recorded[-1]["data"]["created_by"].keys()


def _apps(sim: Simulator, token: str) -> list[dict[str, Any]]:
    with plain(sim, token) as http:
        page = http.get("/apps", params={"workspace_id": workspace(sim, token), "limit": 100}).json()
    return list(page["data"])


def test_events_form_and_upload_are_as_recorded(sim: Simulator, token: str) -> None:
    finished, _ = ask(sim, "27i-run", token)
    run_id = events_of(finished.text)[-1]["workflow_run_id"]
    response, exchange = ask(sim, "27j-events-finished", token, **{"99840e53-14a0-4b0d-887f-8e70219c6289": run_id})
    same_head(response, exchange)
    assert normal_stream(response.text) == normal_stream(recorded_stream(exchange))
    paused, _ = ask(sim, "27l-human-input", token)
    form = next(e for e in events_of(paused.text) if e["event"] == "human_input_required")["data"]["form_token"]
    for name in ("27l2-form", "27l3-form-submit", "27l5-form-submit-twice"):
        response, exchange = ask(sim, name, token, nmJw0Ql5tszeDYQEGmK3qH=form)
        assert response.status_code == exchange["response"]["status"]
        assert normal_body(response.text) == normal_body(exchange["response"]["body"])
    response, exchange = ask(sim, "27m-upload", token)
    same_head(response, exchange)
    assert list(response.json()) == list(_body("27m-upload"))


def test_an_app_key_sees_the_account_s_runs(sim: Simulator, token: str) -> None:
    ask(sim, "27i-run", token)
    params = {"created_by_account": "admin@example.com", "limit": "1"}
    headers = {"Authorization": "Bearer app-echo"}
    address = f"{sim.base_url}/workflows/logs"
    found = httpx.get(address, params=params, headers=headers, trust_env=False, verify=False).json()
    recorded = _body("27j7-service-api-logs-of-openapi-run")
    assert found["data"][0].keys() == recorded["data"][0].keys()
    assert found["data"][0]["created_from"] == "openapi"
    assert found["data"][0]["created_by_account"]["email"] == "admin@example.com"


@pytest.mark.parametrize("shape", accounts.SHAPES)
def test_the_limit_of_each_token(shape: str) -> None:
    with Simulator(Config(api_shape=shape, account_rate=3)) as sim:
        token = sign_in(sim)
        with plain(sim, token) as http:
            answers = [http.get("/workspaces") for _ in range(4)]
            assert [a.status_code for a in answers] == [200, 200, 200, 429]
            assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60
            own = [http.get("/account") for _ in range(4)]
        assert own[-1].status_code == 429
        assert own[-1].json() == _body("27p-token-rate-limited")
        assert "Retry-After" not in own[-1].headers
        if shape == "A":
            assert answers[-1].json() == _body("27p2-run-token-rate-limited")


@pytest.mark.parametrize("shape", accounts.SHAPES)
def test_a_token_past_its_end(shape: str) -> None:
    with Simulator(Config(api_shape=shape)) as sim:
        token = sign_in(sim)
        sim.configure(clock_skew=15 * 86400)
        with plain(sim, token) as http:
            assert http.get("/account").status_code == (401 if shape == "C" else 500)
            assert http.get("/_health").status_code == 200


def test_what_each_shape_answers() -> None:
    app = IDS["app-echo"]
    paths = {
        "A": ("GET", f"/apps/{app}/describe", 200),
        "B": ("GET", f"/apps/{app}", 200),
        "C": ("GET", f"/apps/{app}/runs?triggered_from=app-run", 200),
    }
    for shape in accounts.SHAPES:
        with Simulator(Config(api_shape=shape)) as sim:
            token = sign_in(sim)
            with plain(sim, token) as http:
                for other, (method, path, status) in paths.items():
                    known = other == shape or (other == "B" and shape == "C")
                    assert http.request(method, path).status_code == (status if known else 404), (shape, other)
                catalog = http.get("/_version").headers.get("X-Dify-Catalog")
                assert (catalog is not None) == (shape == "C")
            if shape == "C":
                with plain(sim, token, **{"X-Dify-Catalog": "old"}) as http:
                    stale = http.get("/workspaces")
                assert (stale.status_code, stale.json()["code"]) == (412, "catalog_stale")
                assert stale.headers["X-Dify-Catalog"] == catalog


def test_external_sign_on_is_an_edition() -> None:
    with Simulator(Config(external_sso=1)) as sim:
        guest, admin = sign_in(sim, "guest"), sign_in(sim, label="other")
        assert guest.startswith("dfoe_")
        with plain(sim, guest) as http:
            assert http.get("/account").json()["subject_type"] == "external_sso"
            assert http.get("/permitted-external-apps").json()["total"] > 10
            assert http.get("/apps").json()["code"] == "unsupported_token_type"
            assert http.get("/permitted-external-apps?tag=x").status_code == 422
        with plain(sim, admin) as http:
            assert http.get("/permitted-external-apps").json()["code"] == "wrong_surface"
        sim.configure(licensed=0)
        with plain(sim, admin) as http:
            assert http.get("/workspaces").status_code == 402


def test_there_are_250_apps_of_every_kind_in_three_workspaces(sim: Simulator, token: str) -> None:
    with plain(sim, token) as http:
        spaces = http.get("/workspaces").json()["workspaces"]
        totals, modes = [], set()
        for space in spaces:
            page = http.get("/apps", params={"workspace_id": space["id"], "limit": 100}).json()
            totals.append(page["total"])
            modes |= {row["mode"] for row in page["data"]}
    assert len(totals) == 3
    assert sum(totals) == 249  # one has its API switched off
    assert modes == {"workflow", "advanced-chat", "chat", "agent-chat", "completion"}
