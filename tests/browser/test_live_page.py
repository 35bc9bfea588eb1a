"""The live page in a browser, while its files grow."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from dify_batch.ledger.formats import Paths, json_line
from tests.support.browser import cells, opened, violations
from tests.support.journals import failed, sent
from tests.support.result_tables import put, result

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    output = put(tmp_path, [result(f"r{n}", {"q": HOSTILE}, {"answer": f"number {n}"}) for n in range(3)], [sent("f")])
    command = [sys.executable, "-m", "dify_batch", "report", str(output), "--live", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), output
        process.terminate()


def test_it_follows_the_batch(browser: Browser, served: tuple[str, Path]) -> None:
    address, output = served
    with opened(browser, address, offline=False) as page:
        expect(page.locator("#live")).to_have_text("live: this page follows the batch")
        expect(page.locator(".lead")).to_contain_text("4 rows: 3 success, 1 running")
        expect(page.locator("#table td.id")).to_have_text(["r0", "r1", "r2"])
        with output.open("ab") as file:
            file.write(json_line(result("new", {"q": HOSTILE}, {"answer": HOSTILE})))
        with Paths.of(output).journal.open("ab") as file:
            file.write(json_line(failed("f", HOSTILE), compact=True))
        expect(page.locator(".lead")).to_contain_text("5 rows: 4 success, 1 failed")
        expect(page.locator("#table td.id")).to_have_text(["r0", "r1", "r2", "f", "new"])
        assert cells(page, "state")[3] == "failed"
        assert page.locator("img").count() == 0
        expect(page.locator("#figures")).to_contain_text(HOSTILE)
        assert violations(page) == []


def test_what_is_unfolded_stays_so_while_rows_come(browser: Browser, served: tuple[str, Path]) -> None:
    address, output = served
    with opened(browser, address, offline=False) as page:
        page.get_by_role("button", name="unfold row r1").click()
        with output.open("ab") as file:
            file.write(json_line(result("new", {}, {})))
        expect(page.locator(".lead")).to_contain_text("4 success")
        expect(page.locator(".detail")).to_contain_text("number 1")
        page.get_by_role("button", name="unfold row r1").click()
        expect(page.locator("#table td.id")).to_have_text(["r0", "r1", "r2", "new"])
