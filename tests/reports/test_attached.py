"""Which files outputs point to, and the names that they get."""

from __future__ import annotations

import os
from typing import Any

import pytest

from dify_batch.reports.attached import attached, folder_of, safe_name

ID = "3fc91886-2cd0-4f03-bd00-94bb7bc0b6bb"
SIGNED = "timestamp=1795308160&nonce=02a1&sign=zejz%3D"


def file(name: str = "notes.txt", url: str = f"http://dify/files/{ID}/file-preview?{SIGNED}", **more: Any) -> Any:
    known = {"dify_model_identity": "__dify__file__", "remote_url": "", "filename": name, "size": 18, "url": url}
    return known | {"mime_type": "text/plain"} | more


def test_objects_are_found_wherever_they_stand() -> None:
    other = file("dot.png", "http://dify/files/other/file-preview?x=1", size=70)
    found = attached("r1", {"doc": file(), "deep": {"list": [1, None, other]}, "text": "nothing"})
    assert [(one.output, one.name, one.size) for one in found] == [
        ("doc", "notes.txt", 18),
        ("deep.list.2", "dot.png", 70),
    ]
    assert found[0].source == f"http://dify/files/{ID}/file-preview"


def test_a_remote_file_without_a_link_of_its_own_has_its_address() -> None:
    (one,) = attached("r1", {"doc": file("", "", remote_url="https://cdn.example/a%20b.pdf?v=1", size=-1)})
    assert (one.name, one.url, one.size) == ("a b.pdf", "https://cdn.example/a%20b.pdf?v=1", None)
    assert one.source == one.url


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (f"see ![a cat](https://d.example/files/tools/{ID}.png?{SIGNED}) there", "a cat.png"),
        (f"[notes.txt](/files/{ID}/file-preview?{SIGNED})", "notes.txt"),
        (f"/files/tools/{ID}.png?{SIGNED}", f"{ID}.png"),
        (f"at https://d.example/dify/files/{ID}/image-preview?{SIGNED}.", ID),
    ],
)
def test_signed_links_within_texts(text: str, name: str) -> None:
    (one,) = attached("r1", {"answer": text})
    assert (one.output, one.name, one.size) == ("answer", name, None)
    assert "sign=" in one.url


@pytest.mark.parametrize(
    "outputs",
    [
        None,
        [],
        "text",
        {"url": "http://elsewhere/x.txt", "filename": "x.txt"},  # an object of the workflow's own
        {"doc": file(url="")},
        {"answer": f"/files/{ID}/file-preview?nonce=1"},  # not signed
        {"answer": "[" * 5000 + "/files/" * 5000},
    ],
)
def test_what_is_no_file(outputs: Any) -> None:
    assert attached("r1", outputs) == []


def test_a_file_is_met_once_and_names_differ_in_whatever_case() -> None:
    again = f"[notes.txt](/files/{ID}/file-preview?timestamp=1&nonce=2&sign=3)"
    outputs = {"a": file(), "b": file("Notes.txt", "http://dify/1"), "c": file("notes.TXT", "http://dify/2")}
    found = attached("r1", outputs | {"answer": again, "same": file()})
    assert [one.name for one in found] == ["notes.txt", "Notes-2.txt", "notes-3.TXT"]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("notes.txt", "notes.txt"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("/etc/passwd", "_etc_passwd"),
        ("..\\..\\boot.ini", "_.._boot.ini"),
        ("C:\\x", "C__x"),
        (".bashrc", "bashrc"),
        ("...", "file"),
        ("", "file"),
        ("a\x00b\nc\u202e", "a_b_c_"),
        ("NUL", "_NUL"),
        ("com1.txt", "_com1.txt"),
        ("Größe 日本.pdf", "Größe 日本.pdf"),
        ("trailing. ", "trailing"),
        ("💥|?*<>:.txt", "_______.txt"),
    ],
)
def test_names_are_one_harmless_part_of_a_path(given: str, name: str) -> None:
    assert safe_name(given, "file") == name
    assert os.path.basename(name) == name


def test_long_names_keep_their_ending() -> None:
    name = safe_name("ü" * 300 + ".docx", "file")
    assert name.endswith("ü.docx")
    assert len(name.encode()) <= 120
    assert len(safe_name("x" * 300 + "." + "y" * 300, "file").encode()) <= 120


def test_two_rows_never_share_a_folder() -> None:
    assert folder_of("r1", False) == "r1"
    odd = {folder_of(row, False) for row in ("a/b", "a_b", "a?b", "files.jsonl", "..", ".")}
    assert len(odd) == 6
    assert folder_of("A", True).casefold() != folder_of("a", True).casefold()
