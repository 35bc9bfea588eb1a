"""The HTML report of 100,000 rows with 1 kB of output each: its size, how soon it opens, how soon it finds."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from playwright.sync_api import Page, sync_playwright

from dify_batch.reports.html.report import write_report
from tests.benchmarks.lines import Line
from tests.support.browser import chromium

WORDS = ("the", "answer", "question", "support", "order", "shipped", "with", "an", "invoice", "and", "a", "refund")
SEARCHES = ("refund77", "not in it", "e", "order 9")
# Types a text and waits until the line below the table says what was found.
_SEARCH = """async (text) => {
  const field = document.querySelector(".dt-search input"), info = () => document.querySelector(".dt-info").textContent;
  const before = info(), began = performance.now();
  field.value = text;
  field.dispatchEvent(new Event("input", { bubbles: true }));
  while (info() === before && performance.now() - began < 10000) await new Promise(requestAnimationFrame);
  return performance.now() - began;
}"""


def pages(folder: Path, *, quick: bool) -> Iterator[Line]:
    """Seconds and bytes. Nothing where the system has no browser."""
    path = chromium()
    if path is None:
        return
    rows = 10_000 if quick else 100_000
    output, target = folder / "results.jsonl", folder / "report.html"
    write_results(output, rows)
    began = time.monotonic()
    written = write_report([output], target, now=time.time())
    yield Line("13 report", f"written, {rows:,} rows", time.monotonic() - began, "s")
    read = f"{output.stat().st_size >> 20} MB read"
    yield Line("13 report", "size of the page", written.bytes / (1 << 20), "MB", note=read)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page()
        began = time.monotonic()
        page.goto(target.as_uri(), wait_until="commit")
        page.wait_for_selector("#table td.id")
        yield Line("13 report", "until its rows are shown", time.monotonic() - began, "s", 2.0, "most")
        page.wait_for_selector("html[data-ready=all]", state="attached", timeout=60_000)
        yield Line("13 report", "until all of them can be searched", time.monotonic() - began, "s")
        slowest = max(_search(page, text) for text in SEARCHES)
        yield Line("13 report", "the slowest search", slowest, "s", 0.3, "most")
        browser.close()


def _search(page: Page, text: str) -> float:
    return float(page.evaluate(_SEARCH, text)) / 1000


VIEWERS, ROWS_A_SECOND, WATCHED = 10, 100, 10.0


def live(folder: Path, *, quick: bool) -> Iterator[Line]:
    """What the live page with ten viewers takes of one core while an output grows."""
    output = folder / "results.jsonl"
    write_results(output, 2_000)
    lines = output.read_text(encoding="utf-8-sig").splitlines()
    output.write_text("\n".join(lines[:1000]) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "dify_batch", "report", str(output), "--live", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, ThreadPoolExecutor(VIEWERS) as viewers:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        over = threading.Event()
        for _ in range(VIEWERS):
            viewers.submit(_view, address, over)
        time.sleep(2.0)  # the first look reads all
        before = _cpu(server.pid)
        for number in range(int(ROWS_A_SECOND * WATCHED / 10)):
            time.sleep(10 / ROWS_A_SECOND)
            with output.open("a", encoding="utf-8") as file:
                begin = 1000 + number * 10 % 1000
                file.writelines(
                    line.replace('"row-', f'"row-{number}-', 1) + "\n" for line in lines[begin : begin + 10]
                )
        share = 100 * (_cpu(server.pid) - before) / WATCHED
        over.set()
        server.terminate()
    note = f"{VIEWERS} viewers, {ROWS_A_SECOND} rows a second"
    yield Line("13 live", "share of one core", share, "%", note=note)
    yield Line("13 live", "share of the machine", share / (os.cpu_count() or 1), "%", 2.0, "most", note)


def _cpu(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _view(address: str, over: threading.Event) -> None:
    """Does what the page does: waits for news and fetches them."""
    have = 0
    with httpx.Client(trust_env=False, timeout=30) as client, client.stream("GET", f"{address}events") as events:
        for line in events.iter_lines():
            if over.is_set():
                return
            if line.startswith("data:"):
                client.get(f"{address}figures")
                have += len(client.get(f"{address}rows?from={have}").json()["columns"]["id"])


def write_results(path: Path, rows: int) -> None:
    chance = random.Random(1)
    with path.open("w", encoding="utf-8-sig") as file:
        for number in range(rows):
            words = (f"{chance.choice(WORDS)}{chance.choice(('', ' ', chance.randrange(100)))}" for _ in range(170))
            line = {
                "id": f"row-{number}",
                "status": "success",
                "inputs": {"query": f"question {number}"},
                "outputs": {"answer": " ".join(words)[:1024]},
                "workflow_run_id": f"00000001-0000-4000-8000-{number:012x}",
                "executed_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(1_764_000_000 + number // 20)),
                "retry_count": 0,
                "elapsed_time": round(chance.lognormvariate(1, 0.5), 3),
                "total_tokens": chance.randrange(900),
            }
            file.write(json.dumps(line) + "\n")
