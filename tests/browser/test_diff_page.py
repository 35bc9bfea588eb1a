"""The comparison in a browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from dify_batch.reports.diff.report import diff
from tests.support.browser import cells, info, opened, violations
from tests.support.result_tables import put, result

HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diff")
    a = [result(f"r{n}", {"q": n}, {"answer": f"a red fox {n} {HOSTILE}", "score": 1}) for n in range(40)]
    b = [
        result(f"r{n}", {"q": n if n != 7 else "other"}, {"answer": f"a {'blue' if n % 2 else 'red'} fox {n} {HOSTILE}",
                                                        "score": 1.0})
        for n in range(39)
    ]  # fmt: skip
    for name, records in (("a", a), ("b", b)):
        (folder / name).mkdir()
        put(folder / name, records)
    diff(folder / "a/results.jsonl", folder / "b/results.jsonl", target=folder / "diff.html", now=1.8e9)
    return folder / "diff.html"


def test_changed_words_are_marked_on_both_sides(browser: Browser, compared: Path) -> None:
    with opened(browser, compared) as page:
        assert info(page) == "1 to 20 of 20 rows"
        assert cells(page, "changed fields")[0] == "answer"
        page.get_by_role("button", name="unfold row r1", exact=True).click()
        assert page.locator(".sides del").all_inner_texts() == ["red"]
        assert page.locator(".sides ins").all_inner_texts() == ["blue"]
        expect(page.locator(".sides")).to_contain_text(f"a red fox 1 {HOSTILE}")
        assert page.locator("img").count() == 0


def test_kinds_can_be_told_apart(browser: Browser, compared: Path) -> None:
    with opened(browser, compared) as page:
        page.get_by_label("Show").select_option("other inputs")
        expect(page.locator("#table td.id")).to_have_text(["r7"])
        page.get_by_role("button", name="unfold row r7").click()
        expect(page.locator(".detail")).to_contain_text("inputs.q")
        page.get_by_label("Show").select_option("only in a")
        expect(page.locator("#table td.id")).to_have_text(["r39"])
        page.get_by_role("button", name="unfold row r39").click()
        expect(page.locator(".sides em")).to_have_text(["none", "none"])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_serious_for_screen_readers(browser: Browser, compared: Path, scheme: str, width: int) -> None:
    with opened(browser, compared, color_scheme=scheme, viewport={"width": width, "height": 800}) as page:
        page.get_by_role("button", name="unfold row r1", exact=True).click()
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
