"""`dify-batch diff` on files: counts, exit statuses, channels, the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dify_batch.cli.main import main
from dify_batch.ledger.formats import Paths, json_line
from dify_batch.reports.diff import page
from dify_batch.reports.diff.read import KINDS
from dify_batch.reports.diff.report import SHOWN, diff
from tests.support.result_tables import put, result

Records = list[dict[str, Any]]


def pair(folder: Path, a: Records, b: Records, *, journal: Records | None = None) -> list[str]:
    names = []
    for name, records in (("a", a), ("b", b)):
        (folder / name).mkdir()
        put(folder / name, records, journal or [] if name == "b" else [])
        names.append(str(folder / name / "results.jsonl"))
    return names


A = [result("1", {"q": "x"}, {"t": "a red fox", "n": 1}), result("2", {"q": "y"}, {"t": "same"})]


@pytest.mark.parametrize(
    ("b", "kinds", "status"),
    [
        (A, {"same": 2}, 0),
        (list(reversed(A)), {"same": 2}, 0),
        ([result("1", {"q": "x"}, {"t": "a blue fox", "n": 1}), A[1]], {"same": 1, "changed": 1}, 1),
        ([A[0]], {"same": 1, "only in a": 1}, 1),
        ([*A, result("3", {}, {})], {"same": 2, "only in b": 1}, 1),
        ([result("1", {"q": "other"}, {"t": "b"}), A[1]], {"same": 1, "other inputs": 1}, 1),
        ([result("1", {"q": "other"}, {}), result("2", {"q": "other"}, {})], {"other inputs": 2}, 2),
        ([result("3", {}, {})], {"only in a": 2, "only in b": 1}, 2),
        ([], {"only in a": 2}, 2),
    ],
)
def test_kinds_and_exit_statuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], b: Records, kinds: dict[str, int], status: int
) -> None:
    names = pair(tmp_path, A, b, journal=[{"event": "batch", "batch": "b", "input": "x"}])
    assert main(["diff", *names, "--json"]) == status
    shown = json.loads(capsys.readouterr().out)
    assert {kind: shown[kind.replace(" ", "_")] for kind in KINDS} == dict.fromkeys(KINDS, 0) | kinds
    assert shown["comparable"] is (status != 2)
    assert len(shown["rows"]) == sum(kinds.values()) - kinds.get("same", 0)
    assert shown["rows_left_out"] == 0


def test_the_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    b = [result("1", {"q": "x"}, {"t": "a blue fox", "n": 1.05, "new": True}), A[1]]
    names = pair(tmp_path, A, b)
    assert main(["diff", *names, "--tolerance", "0.1"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "2 ids: 1 same, 1 changed",
        "changed fields: t 1, new 1",
        "1",
        "  t: a [-red-]{+blue+} fox",
        "  new: {+true+}",
    ]


def test_why_a_row_is_only_in_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal: Records = [
        {"event": "sent", "id": "2", "attempt": 1, "user": "u", "at": "2026-11-22T02:00:00.000Z"},
        {"event": "failed", "id": "2", "kind": "failed", "code": "run_failed", "message": "quota\x1b[2J"},
    ]
    names = pair(tmp_path, A, A[:1], journal=journal)
    assert main(["diff", *names]) == 1
    text = capsys.readouterr().out
    assert f"2  only in {names[0]} (failed: run_failed: quota)" in text
    assert "\x1b" not in text


def test_many_changes_are_cut_and_say_so(tmp_path: Path) -> None:
    names = pair(
        tmp_path,
        [result(str(n), {}, {"t": n}) for n in range(SHOWN + 5)],
        [result(str(n), {}, {"t": n + 1}) for n in range(SHOWN + 5)],
    )
    text = diff(Path(names[0]), Path(names[1])).text()
    assert text.count("  t: ") == SHOWN
    assert text.endswith("and 5 rows more; all of them: -o diff.html")


@pytest.mark.parametrize("tolerance", ["-1", "x", "nan", ""])
def test_a_wrong_tolerance(tmp_path: Path, capsys: pytest.CaptureFixture[str], tolerance: str) -> None:
    names = pair(tmp_path, A, A)
    assert main(["diff", *names, f"--tolerance={tolerance}"]) == 2
    assert "--tolerance" in capsys.readouterr().err


def test_what_is_no_batch_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = pair(tmp_path, A, A)
    assert main(["diff", names[0], str(tmp_path / "none.jsonl")]) == 2
    assert "there is no batch of that name" in capsys.readouterr().err


def test_torn_and_foreign_lines_are_passed_over(tmp_path: Path) -> None:
    names = pair(tmp_path, A, A)
    with Path(names[0]).open("ab") as file:
        file.write(b'{"id": "9", broken}\n{"id": "10"')
    with Path(names[1]).open("ab") as file:
        file.write(b"[]\n" + json_line(A[0]))
    assert diff(Path(names[0]), Path(names[1])).kinds["same"] == 2


def test_a_batch_that_has_only_a_journal_so_far(tmp_path: Path) -> None:
    names = pair(tmp_path, A, A, journal=[{"event": "batch", "batch": "b", "input": "x"}])
    for a, b, kind in ((0, 1, "only in a"), (1, 0, "only in b")):
        Paths.of(Path(names[1])).results.unlink(missing_ok=True)
        assert diff(Path(names[a]), Path(names[b])).kinds[kind] == 2


def test_the_page_holds_what_is_not_the_same_as_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = "</script><img src=x onerror=alert(1)>"
    a = [result(f"{hostile}{n}", {hostile: hostile}, {hostile: f"{hostile}{n}"}) for n in range(5)]
    b = [result(f"{hostile}{n}", {hostile: hostile}, {hostile: n}) for n in range(5)]
    names = [Path(name) for name in pair(tmp_path, a, b)]
    target = tmp_path / "diff.html"
    assert diff(names[0], names[1], target=target).page == str(target)
    text = target.read_text(encoding="utf-8")
    assert "<img" not in text
    assert "first 3 of 5 rows" not in text
    assert "BSD 3-Clause" in text
    monkeypatch.setattr(page, "MAX_ROWS", 3)
    diff(names[0], names[1], target=target)
    assert "This page holds the first 3 of 5 rows." in target.read_text(encoding="utf-8")
