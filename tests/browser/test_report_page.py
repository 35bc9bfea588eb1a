"""The report in a browser: search, sort, filter, paging, unfolding; keyboard, screen readers, phone, print, dark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from dify_batch.reports.html.report import write_report
from tests.support.browser import cells, info, opened, violations
from tests.support.result_tables import JOURNAL, put, result

NOW = 1_795_312_800.0
HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 results over ten minutes, four other rows, values that look like markup."""
    folder = tmp_path_factory.mktemp("report")
    records = [
        result(
            f"r{n}",
            {"question": f"number {n}"},
            {"answer": f"Ünï {n} {'needle' if n % 500 == 7 else ''}", "tags": [n, {"deep": HOSTILE}], "html": HOSTILE},
            executed_at=f"2026-11-22T02:{n * 600 // 2000 // 60:02d}:{n * 600 // 2000 % 60:02d}Z",
            elapsed_time=(n * 7919 % 2000) / 100,
            total_tokens=100 + n % 50,
            total_price=f"0.000{n % 9}",
            currency="USD",
        )
        for n in range(2000)
    ]
    write_report([put(folder, records, JOURNAL)], folder / "report.html", now=NOW)
    return folder / "report.html"


def search(page: Page, text: str) -> None:
    page.get_by_label("Search in all values").fill(text)


def head(page: Page, name: str) -> Locator:
    return page.locator("#table").get_by_role("columnheader", name=name)


def test_search_looks_into_all_values_and_says_how_many_it_found(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        assert info(page) == "1 to 25 of 2,004 rows"
        search(page, "NEEDLE")
        expect(page.locator(".dt-info")).to_have_text("1 to 4 of 4 rows (out of 2,004)")
        assert cells(page, "id") == ["r7", "r507", "r1007", "r1507"]
        search(page, "ünï 1999")
        expect(page.locator(".dt-info")).to_contain_text("1 to 1 of 1 rows")
        search(page, "closed log")  # the message of an error
        expect(page.locator("#table td.state")).to_have_text(["unknown"])
        search(page, "a(b[*")
        expect(page.locator("#table tbody")).to_contain_text("No row holds that.")
        search(page, "")
        expect(page.locator(".dt-info")).to_have_text("1 to 25 of 2,004 rows")


def test_sorting_goes_by_value_with_the_empty_ones_last(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        seconds = head(page, "seconds")
        seconds.click()
        expect(seconds).to_have_attribute("aria-sort", "ascending")
        assert cells(page, "seconds")[:3] == ["0", "0.01", "0.02"]
        seconds.click()
        expect(seconds).to_have_attribute("aria-sort", "descending")
        assert cells(page, "seconds")[:2] == ["19.99", "19.98"]


def test_the_filter_of_states_and_paging(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        page.get_by_label("Show").select_option("failed")
        expect(page.locator(".dt-info")).to_have_text("1 to 2 of 2 rows (out of 2,004)")
        assert cells(page, "id") == ["a", "f"]
        page.get_by_label("Show").select_option("all rows")
        page.locator(".dt-paging").get_by_text("3", exact=True).click()
        expect(page.locator(".dt-info")).to_have_text("51 to 75 of 2,004 rows")
        assert cells(page, "id")[0] == "r50"
        page.get_by_label("rows a page").select_option("100")
        expect(page.locator(".dt-info")).to_contain_text("of 2,004 rows")
        assert len(cells(page, "id")) == 100


def test_a_row_unfolds_to_its_inputs_and_outputs_as_text(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        button = page.get_by_role("button", name="unfold row r3", exact=True)
        expect(button).to_have_attribute("aria-expanded", "false")
        button.click()
        expect(button).to_have_attribute("aria-expanded", "true")
        box = page.locator(".detail")
        expect(box).to_contain_text("number 3")
        expect(box).to_contain_text(HOSTILE)
        expect(box).to_contain_text("run-r3")
        assert page.locator("img").count() == 0
        values: list[str] = box.locator("dd").all_inner_texts()
        assert any('"deep": "</script>' in value for value in values)
        button.click()
        expect(page.locator(".detail")).to_have_count(0)


def test_what_was_searched_for_is_marked(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        search(page, "needle")
        expect(page.locator(".dt-info")).to_contain_text("of 4 rows")
        page.get_by_role("button", name="unfold row r507").click()
        assert page.locator(".detail mark").all_inner_texts() == ["needle"]


def test_an_example_of_a_failure_leads_to_its_row(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        page.locator("button.find", has_text="u").first.click()
        expect(page.get_by_label("Search in all values")).to_have_value("u")
        slow = page.locator("section", has_text="The slowest rows").locator("button.find").first
        wanted = slow.inner_text()
        slow.click()
        expect(page.locator(".dt-info")).to_contain_text("of 1 rows")
        assert cells(page, "id") == [wanted]


def test_the_keyboard_alone_is_enough(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        page.keyboard.press("Tab")
        expect(page.locator(".skip")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#rows")).to_be_focused()
        page.get_by_role("button", name="unfold row r0", exact=True).focus()
        page.keyboard.press("Enter")
        expect(page.locator(".detail")).to_have_count(1)
        head(page, "tokens").locator("[tabindex='0'], button").first.focus()
        page.keyboard.press("Enter")
        expect(head(page, "tokens")).to_have_attribute("aria-sort", "ascending")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_serious_for_screen_readers(browser: Browser, report: Path, scheme: str, width: int) -> None:
    options: dict[str, Any] = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    with opened(browser, report, **options) as page:
        page.get_by_role("button", name="unfold row r0", exact=True).click()
        page.locator("details summary").first.click()
        assert violations(page) == []


def test_a_phone_needs_no_scrolling_to_the_side(browser: Browser, report: Path) -> None:
    with opened(browser, report, viewport={"width": 360, "height": 740}) as page:
        page.get_by_role("button", name="unfold row r0", exact=True).click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_charts_are_drawn_in_the_colours_of_the_scheme(browser: Browser, report: Path) -> None:
    def paper(page: Page) -> str:
        return str(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))

    with opened(browser, report, color_scheme="dark") as page:
        assert page.locator(".chart canvas").count() == 5
        dark = paper(page)
        page.emulate_media(media="print")
        assert page.locator(".chart canvas").count() == 5
        assert paper(page) == "rgb(255, 255, 255)" != dark
        expect(page.locator(".dt-search")).to_be_hidden()


def test_the_numbers_of_a_chart_are_a_table_too(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        page.get_by_text("Rows ended, per 5 s: the numbers").click()
        table = page.get_by_role("region", name="Rows ended, per 5 s: the numbers")
        expect(table.get_by_role("row").nth(1)).to_contain_text("2026-11-22 02:00:00Z")


def test_a_report_without_a_row_opens(browser: Browser, tmp_path: Path) -> None:
    write_report([put(tmp_path, [], JOURNAL[:1])], tmp_path / "report.html", now=NOW)
    with opened(browser, tmp_path / "report.html") as page:
        expect(page.locator("#table tbody")).to_contain_text("No row")
        assert violations(page) == []


def test_a_browser_without_the_newest_functions_shows_the_rows_too(browser: Browser, report: Path) -> None:
    with opened(browser, report, script="delete Uint8Array.fromBase64") as page:
        assert info(page) == "1 to 25 of 2,004 rows"


def test_a_browser_that_cannot_unpack_says_so(browser: Browser, report: Path) -> None:
    with opened(browser, report, script="delete window.DecompressionStream", ready="") as page:
        expect(page.locator("#reading")).to_have_text(
            "This browser is too old to unpack the rows; what stands above is complete."
        )
        assert page.locator(".chart canvas").count() == 5
