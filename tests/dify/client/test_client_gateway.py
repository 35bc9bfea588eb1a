"""What the client makes of what stands in front of Dify, before and after Dify itself has answered."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx
import pytest
import respx

from dify_batch.dify.client import DifyClient
from dify_batch.errors import AppError, ConnectionFailed
from dify_batch.outcomes import Fatal, Lost, Outcome, Rejected, RunRef, Succeeded, Throttled, Unreachable
from tests.dify.client.parts import KEY, REF, run
from tests.support.raw_server import Connection, self_made_certificate, serving
from tests.support.wire_files import answer

NOT_HERE = httpx.Response(404, text="404 page not found\n")


async def test_the_first_good_answer_changes_what_a_gateways_word_means(client: DifyClient, dify: respx.Router) -> None:
    post, log = dify.post("/workflows/run"), dify.get("/workflows/logs")
    post.mock(NOT_HERE)
    log.mock(NOT_HERE)
    assert isinstance(await run(client), Fatal)
    with pytest.raises(AppError):
        await client.logs(user="u")
    dify.get("/parameters").mock(answer("19-parameters-W1"))
    await client.parameters()
    assert client.answered
    assert await run(client) == Unreachable(
        "something in front of Dify answers HTTP 404 (page not found)", foreign=True
    )
    with pytest.raises(ConnectionFailed, match="something in front of Dify"):
        await client.logs(user="u")


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("01-blocking-success", True),
        ("03-invalid-api-key", True),
        ("05-missing-required-blocking", True),
        ("21-v1-root", False),
        ("21a-v1-no-slash", False),
    ],
)
async def test_what_counts_as_an_answer_of_difys(client: DifyClient, dify: respx.Router, name: str, good: bool) -> None:
    dify.post("/workflows/run").mock(answer(name))
    await run(client)
    assert client.answered is good


@pytest.mark.parametrize("status", [403, 406, 413, 414, 431])
async def test_a_firewalls_word_about_one_run(client: DifyClient, dify: respx.Router, status: int) -> None:
    client.answered = True
    dify.post("/workflows/run").mock(httpx.Response(status, html="<title>Blocked</title>"))
    outcome = await run(client)
    assert outcome == Rejected(
        f"http_{status}", f"something in front of Dify answers HTTP {status} (Blocked)", status, foreign=True
    )


@pytest.mark.parametrize("content", [b"<title>Down for maintenance</title>", b"", b'{"ok": true}', b"[1]"])
async def test_a_page_with_200_is_an_outage_that_is_looked_up(
    client: DifyClient, dify: respx.Router, content: bytes
) -> None:
    dify.post("/workflows/run").mock(httpx.Response(200, content=content))
    outcome = await run(client, mode="blocking")
    assert isinstance(outcome, Lost)
    assert (outcome.server_error, outcome.http_status) == (True, 200)
    dify.get("/workflows/run/r1").mock(httpx.Response(200, content=content))
    assert isinstance((await client.run_detail(REF)).outcome, Unreachable)


async def test_look_ups_and_follows_learn_nothing_from_a_gateway(client: DifyClient, dify: respx.Router) -> None:
    for status in (302, 401, 403, 404, 405, 502):
        dify.get("/workflows/run/r1").mock(httpx.Response(status, text="not here"))
        dify.get("/workflow/r1/events").mock(httpx.Response(status, text="not here"))
        assert isinstance((await client.run_detail(REF)).outcome, Unreachable)
        assert isinstance(await client.follow(REF, user="u", timeout=5), Unreachable)


async def test_a_probe_is_answered_by_dify_alone(client: DifyClient, dify: respx.Router) -> None:
    info, parameters = dify.get("/info"), dify.get("/parameters")
    info.mock(NOT_HERE)
    parameters.mock(NOT_HERE)
    assert "404" in (await client.probe() or "")
    client.answered = True
    assert "404" in (await client.probe() or "")
    info.mock(httpx.Response(200, html="<title>Please log in</title>"))
    assert "Please log in" in (await client.probe() or "")


async def test_a_gateway_without_info_is_probed_by_what_it_passes(client: DifyClient, dify: respx.Router) -> None:
    info, parameters = dify.get("/info").mock(NOT_HERE), dify.get("/parameters").mock(answer("19-parameters-W1"))
    await client.parameters()
    assert await client.probe() is None
    assert await client.probe() is None
    assert (info.call_count, parameters.call_count) == (1, 3)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_made_certificate(tmp_path_factory.mktemp("tls"))


async def test_a_certificate_that_is_not_trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    async def nothing(connection: Connection) -> None:
        await connection.until_closed()

    async with serving(nothing, tls=context) as server, DifyClient(server.url, KEY) as client:
        with pytest.raises(ConnectionFailed) as failure:
            await client.parameters()
        assert "SSL_CERT_FILE" in (failure.value.hint or "")
        assert failure.value.details["certificate"] is True
        outcome = await run(client)
        assert isinstance(outcome, Fatal)
        assert "SSL_CERT_FILE" in (outcome.hint or "")
        client.answered = True  # in mid-batch it is being replaced
        assert isinstance(await run(client), Unreachable)


# --- uploads ---------------------------------------------------------------------------------------------------------

TOO_LARGE = {"code": "file_too_large", "message": "", "status": 413}
BAD_TYPE = {"code": "unsupported_file_type", "message": "File type not allowed.", "status": 415}


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (httpx.Response(201, json={"id": "f1"}), "f1"),
        (httpx.Response(413, json=TOO_LARGE), Rejected("upload_refused", "", 413)),
        (httpx.Response(415, json=BAD_TYPE), Rejected("upload_refused", "", 415)),
        (httpx.Response(413, html="<h1>413</h1>"), Rejected("upload_refused", "", 413)),
        (httpx.Response(400, json={"code": "invalid_param", "message": "no"}), Rejected("upload_refused", "", 400)),
        (httpx.Response(403, json={"code": "forbidden", "message": "no"}), Rejected("upload_refused", "", 403)),
        (httpx.Response(500, json={"code": "internal_server_error", "message": "x"}), Unreachable("", charged=True)),
        (httpx.Response(500, text="oops"), Unreachable("", charged=True)),
        (httpx.Response(502, text="bad gateway"), Unreachable("")),
        (httpx.Response(404, text="404 page not found"), Unreachable("")),
        (httpx.Response(302, headers={"location": "/login"}), Unreachable("")),
        (httpx.Response(200, html="<h1>maintenance</h1>"), Unreachable("")),
        (httpx.Response(201, json={}), Unreachable("", charged=True)),
        (httpx.Response(429, text="slow", headers={"retry-after": "4"}), Throttled("", 4.0, 429)),
        (
            httpx.Response(401, json={"code": "unauthorized", "message": "no", "status": 401}),
            Fatal("auth", "auth_expired", "", 401),
        ),
        (httpx.ConnectError("refused"), Unreachable("")),
        (httpx.ReadError("cut"), Unreachable("")),
    ],
)
async def test_what_an_upload_came_to(
    client: DifyClient,
    dify: respx.Router,
    tmp_path: Path,
    response: httpx.Response | Exception,
    expected: str | Outcome,
) -> None:
    client.answered = True
    file = tmp_path / "a.txt"
    file.write_text("x")
    if isinstance(response, Exception):
        dify.post("/files/upload").mock(side_effect=response)
    else:
        dify.post("/files/upload").mock(response)
    sent = await client.send_file(file, user="u", mime="text/plain")
    if isinstance(expected, str) or isinstance(sent, str):
        assert sent == expected
        return
    assert type(sent) is type(expected)
    for name in ("code", "http_status", "charged", "retry_after", "kind"):
        assert getattr(sent, name, None) == getattr(expected, name, None), name
    assert sent.message  # type: ignore[union-attr]


async def test_a_file_that_is_gone_is_its_rows_fault(client: DifyClient, tmp_path: Path) -> None:
    sent = await client.send_file(tmp_path / "gone.txt", user="u", mime="text/plain")
    assert isinstance(sent, Rejected)
    assert sent.code == "file_unreadable"


# --- what a server quotes back ---------------------------------------------------------------------------------------


async def test_a_key_that_is_quoted_back_is_masked_wherever_words_enter(client: DifyClient, dify: respx.Router) -> None:
    client.answered = True
    quote = f"Authorization: Bearer {KEY} sk-abcdefgh12345678 app-Zz99Yy88Xx77"
    failed = {
        "workflow_run_id": "r1",
        "data": {"id": "r1", "status": "failed", "error": quote, "outputs": {"kept": "sk-abcdefgh12345678"}},
    }
    paused = {
        "workflow_run_id": "r1",
        "data": {"id": "r1", "status": "paused", "reasons": [{"form_token": "tok", "form_content": quote}]},
    }
    said: list[object] = []
    for response in (
        httpx.Response(200, json=failed),
        httpx.Response(200, json=paused),
        *(httpx.Response(s, json={"code": "forbidden", "message": quote}) for s in (400, 401, 403, 404, 422, 429, 500)),
        *(httpx.Response(s, text=quote) for s in (200, 400, 403, 429, 500)),
        httpx.Response(302, headers={"location": f"/login?key={KEY}"}),
        httpx.Response(
            200,
            headers={"content-type": "text/event-stream"},
            text=f'data: {{"event":"error","message":"{quote}"}}\n\n',
        ),
    ):
        dify.post("/workflows/run").mock(response)
        said.append(await run(client, mode="blocking"))
        dify.get("/workflows/run/r1").mock(response)
        said.append(await client.run_detail(RunRef("r1")))
        dify.get("/parameters").mock(response)
        try:
            await client.parameters()
        except Exception as error:
            said.append((str(error), getattr(error, "details", None)))
    run_row = {"id": "r1", "status": "failed", "error": quote}
    dify.get("/workflows/logs").mock(httpx.Response(200, json={"data": [{"workflow_run": run_row}]}))
    said.append(await client.logs(user="u"))
    assert len(said) > 40
    for item in said:
        text = repr(item).replace("'kept': 'sk-abcdefgh12345678'", "")  # outputs are no words
        assert KEY not in text
        assert "sk-abc" not in text
        assert "Zz99" not in text


async def test_a_run_keeps_its_result_whatever_words_come_with_it(client: DifyClient, dify: respx.Router) -> None:
    data = {"id": "r1", "status": "succeeded", "outputs": {"text": KEY}, "finished_at": [1], "error": None}
    dify.post("/workflows/run").mock(httpx.Response(200, json={"workflow_run_id": "r1", "data": data}))
    outcome = await run(client, mode="blocking")
    assert isinstance(outcome, Succeeded)
    assert outcome.result.outputs == {"text": KEY}


async def test_a_trace_id_goes_with_the_request(client: DifyClient, dify: respx.Router) -> None:
    route = dify.post("/workflows/run").mock(answer("01-blocking-success"))
    await run(client, trace_id="batch-7_1")
    assert route.calls.last.request.headers["x-trace-id"] == "batch-7_1"
    await run(client)
    assert "x-trace-id" not in route.calls.last.request.headers
