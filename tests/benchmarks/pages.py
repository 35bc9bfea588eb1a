"""The HTML report of 100,000 rows with 1 kB of output each: its size, how soon it opens, how soon it finds."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

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
