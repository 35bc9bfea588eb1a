"""The system's Chromium, driven by Playwright, without a network. Where there is none, tests are skipped and say so."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Dialog, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str | None:
    """Where the system's browser is."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def launched() -> Iterator[Browser]:
    path = chromium()
    if path is None:
        pytest.skip(f"no browser here: none of {', '.join(NAMES)} is in PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Browser,
    file: Path | str,
    *,
    ready: str = "all",
    offline: bool = True,
    script: str = "",
    **options: Any,
) -> Iterator[Page]:
    """A file, or an address, as a page once its rows are there (not waited for where `ready` is empty). `script` runs
    before those of the page. Whatever a script complains of fails the test."""
    context = browser.new_context(offline=offline, **options)
    complaints: list[str] = []

    def dismiss(dialog: Dialog) -> None:
        complaints.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    try:
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("dialog", dismiss)
        if script:
            page.add_init_script(script)
        page.goto(file.as_uri() if isinstance(file, Path) else file)
        if ready:
            page.wait_for_selector(f"html[data-ready={ready}]", state="attached")
        yield page
    finally:
        context.close()
    assert complaints == []


def violations(page: Page) -> list[tuple[str, str, str]]:
    """What axe finds that is serious or worse: (impact, rule, element)."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        (item["impact"], item["id"], item["nodes"][0]["html"][:200])
        for item in found
        if item["impact"] in ("serious", "critical")
    ]


def cells(page: Page, column: str) -> list[str]:
    """The texts of a column of the table of rows as it is shown."""
    names = page.eval_on_selector_all("#table thead th", "heads => heads.map(head => head.textContent.trim())")
    number = names.index(column) + 1
    return [text.strip() for text in page.locator(f"#table tbody tr > td:nth-child({number})").all_inner_texts()]


def info(page: Page) -> str:
    return page.locator(".dt-info").inner_text()
