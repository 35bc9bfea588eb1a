"""What runs beside a batch: it is seen, and it never changes how the batch ends."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from dify_batch.cli.beside import AWAY, Beside, OutageWatch
from dify_batch.cli.main import main
from dify_batch.seams import Seams
from dify_batch.settings import Settings
from dify_batch.summary import Stats


@pytest.mark.parametrize(
    ("looks", "told", "total"),
    [
        ([(0, ""), (10, AWAY), (40, AWAY), (69, AWAY), (80, "")], [], 70),
        ([(0, AWAY), (59, AWAY), (60, AWAY), (90, AWAY), (100, "")], [60], 100),
        (
            [(0, AWAY), (70, AWAY + ": refused"), (80, AWAY + ": 503"), (90, ""), (100, AWAY), (170, AWAY)],
            [70, 70],
            160,
        ),
        ([(0, "checking data.csv"), (500, "checking data.csv")], [], 0),
    ],
)
def test_outages_are_told_once_each(looks: list[tuple[float, str]], told: list[float], total: float) -> None:
    watch = OutageWatch(60)
    found = [seconds for now, state in looks if (seconds := watch.look(now, state)) is not None]
    assert (found, watch.total) == (told, total)


@pytest.fixture
def hook() -> Iterator[tuple[str, list[Any]]]:
    bodies: list[Any] = []

    class Take(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Take)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", bodies
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("DIFY_API_KEY", "DIFY_BATCH_NOTIFY", "DIFY_BATCH_METRICS", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "data.csv").write_text("id,query\na,x\nb,y\n")
    return tmp_path


CALL = ["--demo", "-i", "data.csv", "-o", "out.jsonl"]


def test_a_batch_with_all_of_it(here: Path, hook: tuple[str, list[Any]], capsys: pytest.CaptureFixture[str]) -> None:
    url, bodies = hook
    assert main([*CALL, "--report", "out.html", "--metrics", "out.prom", "--notify", url]) == 0
    assert "Report: out.html" in capsys.readouterr().err
    assert "2 rows: 2 success" in (here / "out.html").read_text()
    assert 'dify_batch_rows{output="out.jsonl",state="success"} 2.0' in (here / "out.prom").read_text()
    (body,) = bodies
    assert (body["event"], body["exit_status"], body["summary"]["success"]) == ("end", 0, 2)


def test_what_cannot_be_told_or_written_changes_no_exit_status(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dify_batch.ledger.disk import Disk
    from dify_batch.reports import notify

    monkeypatch.setattr(notify, "PAUSE", 0.0)
    monkeypatch.setattr(notify.Notifier.__init__, "__kwdefaults__", {"timeout": 5.0, "pause": 0.0})
    real = Disk.replace

    def full(self: Disk, path: Path, data: bytes, *rest: Any) -> None:
        if path.suffix in (".html", ".prom"):
            raise OSError(28, "No space left on device")
        real(self, path, data, *rest)

    monkeypatch.setattr(Disk, "replace", full)
    call = [*CALL, "--report", "out.html", "--metrics", "out.prom", "--notify", "http://127.0.0.1:9/"]
    assert main(call) == 0
    text = capsys.readouterr().err
    assert "--report: out.html cannot be written: No space left on device" in text
    assert "--metrics: out.prom cannot be written: No space left on device" in text
    assert "--notify: http://127.0.0.1 was not told" in text
    assert "Report: " not in text
    assert main([*call, "--overwrite", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert {"report_failed", "metrics_failed"} <= {warning["code"] for warning in summary["warnings"]}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--report", "out.pdf"], "out.pdf: a report is written as .html"),
        (["--report", "out.jsonl"], "--output and --report are the same file"),
        (["--notify", "nosuchservice://x"], "--notify: nosuchservice://... is no address"),
        (["--metrics", "figures.txt"], '--metrics: "figures.txt" is not a port from 1 to 65535'),
        (["--metrics", "70000"], '--metrics: "70000" is not a port'),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_sent(
    here: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert main([*CALL, *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (here / "out.jsonl").exists()


def test_an_error_before_the_first_row_needs_a_person(hook: tuple[str, list[Any]], here: Path) -> None:
    url, bodies = hook
    (here / "data.csv").write_text("id,query\na,my secret cell\na,my secret cell\n")
    assert main([*CALL, "--notify", url]) == 2
    (body,) = bodies
    assert (body["event"], body["exit_status"]) == ("needs_person", 2)
    assert "secret" not in json.dumps(body)


def test_a_dry_run_tells_nobody(hook: tuple[str, list[Any]], here: Path) -> None:
    url, bodies = hook
    assert main([*CALL, "--dry-run", "--report", "out.html", "--metrics", "out.prom", "--notify", url]) == 0
    assert bodies == []
    assert not (here / "out.html").exists()
    assert not (here / "out.prom").exists()


async def test_a_long_outage_is_told_while_it_lasts(hook: tuple[str, list[Any]], here: Path) -> None:
    url, bodies = hook
    settings = Settings(input="data.csv", output=Path("out.jsonl"), demo=True, notify=(url,), max_outage=1e-9)
    stats = Stats(state=f"{AWAY}: refused")
    task = asyncio.create_task(Beside(settings, stats, Seams()).watch())
    for _ in range(500):
        if bodies:
            break
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert bodies[0]["event"] == "outage"
