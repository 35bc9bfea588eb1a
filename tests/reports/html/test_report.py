"""The HTML report as a file: what is in it, what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dify_batch.cli.main import main
from dify_batch.errors import DifyBatchError, StorageError, UsageError
from dify_batch.ledger.disk import Disk
from dify_batch.ledger.formats import Paths
from dify_batch.reports.html import page
from dify_batch.reports.html.collect import TOP, collect
from dify_batch.reports.html.pack import unpacked
from dify_batch.reports.html.report import write_report
from tests.support.result_tables import JOURNAL, put, result

NOW = 1_795_312_800.0
HOSTILE = "</script><img src=x onerror=alert(1)><!--"


def write(output: Path) -> str:
    target = output.with_name("report.html")
    write_report([output], target, now=NOW)
    return target.read_text(encoding="utf-8")


def script(text: str, name: str) -> Any:
    match = re.search(rf'<script type="[^"]*" id="{name}">(.*?)</script>', text, re.DOTALL)
    assert match
    return json.loads(match[1] if name == "meta" else unpacked(match[1]))


def test_every_row_is_in_it_in_its_state(tmp_path: Path) -> None:
    output = put(tmp_path, [result("a", {"q": "hi"}, {"answer": "yes"}, status="partial-success")], JOURNAL)
    Paths.of(output).retry.write_text("f\nu\nby-hand\n")
    found = collect([output])
    assert {name: number for name, number in found.counts.items() if number} == {
        "partial success": 1, "failed": 1, "unknown": 1, "paused": 1, "waiting": 1,
    }  # fmt: skip
    assert found.columns.id == ["a", "f", "u", "p", "by-hand"]
    assert found.columns.code == ["", "run_failed", "outcome_unknown", "", ""]
    assert not found.sampled
    assert [(group.code, group.count) for group in found.groups] == [("run_failed", 1), ("outcome_unknown", 1)]
    text = write(output)
    assert "5 rows: 1 partial success, 1 failed, 1 unknown, 1 paused, 1 waiting" in text
    assert script(text, "columns")["id"] == found.columns.id
    assert script(text, "meta")["sources"] == ["results.jsonl"]


def page_of(folder: Path, text: str) -> str:
    """A report in which everything that can be `text` is."""
    journal: list[dict[str, Any]] = [
        {"event": "sent", "id": text + "f", "attempt": 1, "user": "u", "at": "2026-11-22T02:00:00.000Z"},
        {"event": "failed", "id": text + "f", "kind": "failed", "code": text, "message": text},
    ]
    records = [
        result(
            text + str(n),
            {text: text},
            {text: [text]},
            workflow_run_id=text,
            currency=text,
            total_price=f"0.{n + 1}",
            elapsed_time=n + 1.0,
        )
        for n in range(3)
    ]
    return write(put(folder, records, journal))


def test_content_is_data_wherever_it_stands(tmp_path: Path) -> None:
    text, plain = page_of(tmp_path, HOSTILE), page_of(tmp_path, "x")
    assert "<img" not in text
    assert "onerror=alert(1)&gt;" in text  # as text
    for mark in ("<script", "</script", "<!--", "</"):
        assert text.count(mark) == plain.count(mark)


def test_only_the_pages_own_scripts_may_run(tmp_path: Path) -> None:
    text = write(put(tmp_path, [result("a", {}, {})]))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy
    rules = policy[1].replace("&#39;", "'")
    assert "default-src 'none'" in rules
    assert "connect-src 'none'" in rules
    (scripts,) = re.findall(r"script-src ([^;]*);", rules)
    assert "unsafe" not in scripts
    assert len(scripts.split()) == text.count("<script>")


def test_no_address_is_fetched(tmp_path: Path) -> None:
    text = write(put(tmp_path, [result("a", {}, {})]))
    assert not re.search(r"""<(?:link|img|iframe)\b|<script[^>]*\bsrc=|@import|url\(\s*['"]?http""", text)


def test_beyond_the_room_all_failures_stay_and_results_are_sampled(tmp_path: Path) -> None:
    records = [result(f"r{n}", {}, {}, elapsed_time=float(n)) for n in range(100)]
    output = put(tmp_path, records, JOURNAL)
    found = collect([output], max_rows=13)
    assert found.sampled
    assert len(found.columns.id) == 13
    assert [row_id for row_id in found.columns.id if not row_id.startswith("r")] == ["a", "f", "u", "p"]
    assert (found.total_rows, found.used.tokens) == (104, 700)
    assert found.slowest[0].id == "r99"
    assert sum(found.block_rows) == 13
    large = [result(f"r{n}", {}, {"t": "x" * 1000}) for n in range(100)]
    assert len(collect([put(tmp_path, large)], max_bytes=26_000).columns.id) in range(15, 24)


def test_it_says_that_it_is_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dify_batch.reports.html import report

    output = put(tmp_path, [result(f"r{n}", {}, {}) for n in range(100)], JOURNAL)
    monkeypatch.setattr(report, "collect", lambda outputs: collect(outputs, max_rows=13))
    text = write(output)
    assert (
        "This page holds all 4 rows without a result, and an even sample of 9 of the 100 rows with one; "
        "the figures above are of all rows."
    ) in text


def test_the_slowest_and_the_dearest_come_first(tmp_path: Path) -> None:
    records = [
        result(f"r{n}", {}, {}, elapsed_time=float(n % 7), total_price=f"0.0{n % 9}", currency="USD")
        for n in range(40)
    ]  # fmt: skip
    found = collect([put(tmp_path, records)])
    assert [top.id for top in found.slowest][:3] == ["r6", "r13", "r20"]
    assert [top.id for top in found.dearest][:2] == ["r8", "r17"]
    assert len(found.slowest) == len(found.dearest) == TOP
    assert found.dearest[0].price == "0.08 USD"


def test_several_outputs_are_one_report(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    outputs = [put(tmp_path / "one", [result("a", {}, {})], JOURNAL), put(tmp_path / "two", [result("a", {}, {})])]
    found = collect(outputs)
    assert found.columns.id == ["a", "f", "u", "p", "a"]
    assert found.columns.source == [0, 0, 0, 0, 1]
    assert found.total_rows == 5


def test_lines_that_are_no_results_and_odd_values_are_no_error(tmp_path: Path) -> None:
    output = put(tmp_path, [
        result("a", {}, "text in place of an object", executed_at="yesterday", elapsed_time="long", total_tokens=None),
        result("b", {}, None, executed_at=None, elapsed_time=-1, retry_count=None, workflow_run_id=7),
        result("a", {}, {}),
    ])  # fmt: skip
    with output.open("ab") as file:
        file.write(b'[]\n{"id": 3}\nnot json\n{"id": "cut')
    found = collect([output])
    assert found.columns.id == ["a", "b"]
    assert found.columns.at == [None, None]
    assert found.columns.seconds == [None, None]
    assert found.warnings


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("report.pdf", "a report is written as .html"),
        ("results.jsonl", "a report is written as .html"),
        ("folder.html", "is a folder"),
        ("gone/report.html", "there is no folder"),
        ("link.html", "is a file of the batch itself"),
    ],
)
def test_targets_that_are_refused(tmp_path: Path, name: str, message: str) -> None:
    output = put(tmp_path, [result("a", {}, {})])
    before = output.read_bytes()
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "link.html").symlink_to(output)
    with pytest.raises(UsageError, match=re.escape(message)):
        write_report([output], tmp_path / name, now=NOW)
    assert output.read_bytes() == before


def test_a_full_disk_is_told_and_leaves_the_old_report(tmp_path: Path) -> None:
    class Full(Disk):
        def write(self, fd: int, data: bytes) -> None:
            raise OSError(28, "No space left on device")

    output = put(tmp_path, [result("a", {}, {})])
    old = write(output)
    with pytest.raises(StorageError, match="cannot be written: No space left"):
        write_report([output], tmp_path / "report.html", now=NOW, disk=Full())
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == old


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = put(tmp_path, [result("a", {}, {})], JOURNAL)
    target = tmp_path / "report.html"
    assert main(["report", str(output), "-o", str(target), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["rows"], shown["shown"], shown["bytes"]) == (4, 4, target.stat().st_size)
    assert main(["report", str(tmp_path / "none.jsonl"), "-o", str(target)]) == 2
    assert "there is no batch of that name" in capsys.readouterr().err


def test_an_output_that_is_none_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DifyBatchError):
        write_report([tmp_path / "none.jsonl"], tmp_path / "report.html", now=NOW)
    assert list(tmp_path.iterdir()) == []


def test_the_libraries_are_small_have_their_licences_and_end_no_script() -> None:
    files = [path for path in page.VENDOR.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1_000_000
    libraries = sorted(path for path in files if path.suffix in (".js", ".css"))
    assert {*page.LIBRARIES, *page.LIBRARY_STYLES} < {str(path.relative_to(page.VENDOR)) for path in libraries}
    for path in libraries:
        assert re.search("MIT License|BSD 3-Clause", (path.parent / "LICENSE").read_text())
        assert path.name in (page.VENDOR / "README.md").read_text()
    for path in [*libraries, *page.PAGE.glob("*.js")]:
        assert "</script" not in path.read_text(encoding="utf-8").lower()
        assert "<!--" not in path.read_text(encoding="utf-8")
