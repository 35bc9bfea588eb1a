"""Files as inputs: what Dify took in recorded exchanges is what is made of cells."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dify_batch.input.files import (
    FilePlace,
    FileRefused,
    Inputs,
    LocalFile,
    find_local,
    resolve,
    with_uploads,
)
from dify_batch.input.filetypes import FileRules, choose_type, detect_type, size_limit
from dify_batch.input.form import Form
from dify_batch.input.records import Problem, Row

WIRE = Path(__file__).parent.parent / "wire"


def exchange(name: str) -> Any:
    return json.loads((WIRE / f"{name}.json").read_text(encoding="utf-8"))


FORM = Form.from_parameters(json.loads(exchange("19b-parameters-W5")["response"]["body"]))
LIMITS = {"file_size_limit": 15, "image_file_size_limit": 10, "video_file_size_limit": 100}


def sent(name: str) -> dict[str, Any]:
    inputs: dict[str, Any] = json.loads(exchange(name)["request"]["body"])["inputs"]
    return inputs


def one(
    folder: Path, *, typed: bool = False, files_column: str | None = None, form: Form = FORM, **cells: Any
) -> tuple[Inputs, list[Problem]]:
    bound = form.bind(("id", *cells), id_column="id", base_dir=folder, typed=typed, files_column=files_column)
    return bound.inputs(Row(1, 2, "r", {"id": "r", **cells}))


@pytest.mark.parametrize(
    ("extension", "type_"),
    [
        (".txt", "document"),
        (".PDF", "document"),
        (".docx", "document"),
        (".epub", "document"),
        (".JPG", "image"),
        (".svg", "image"),
        (".bmp", "image"),  # by its Content-Type
        (".mp3", "audio"),
        (".ogg", "audio"),
        (".mov", "video"),
        (".avi", "video"),
        (".xyz", None),
        (".exe", None),
        ("", None),
    ],
)
def test_type_by_extension(extension: str, type_: str | None) -> None:
    assert detect_type(extension) == type_


@pytest.mark.parametrize(
    ("extension", "types", "extensions", "chosen", "chosen_for_url"),
    [
        (".txt", (), (), "document", "document"),
        (".txt", ("document",), (), "document", "document"),
        (".txt", ("custom",), (".txt",), "custom", "custom"),
        (".TXT", ("custom",), (".txt",), "custom", "custom"),
        (".txt", ("custom", "document"), (".txt",), "document", "document"),
        (".txt", ("image",), (), None, None),
        (".txt", ("custom",), (".md",), None, None),
        (".xyz", (), (), "document", "document"),
        (".xyz", ("document", "custom"), (".xyz",), "custom", "custom"),
        (".xyz", ("document",), (), None, "document"),
        (".exe", ("document", "image"), (), None, "document"),
        ("", ("document",), (), None, "document"),
        (".xyz", ("image",), (), None, "image"),
        ("", ("image", "audio"), (), None, "image"),
    ],
)
def test_declared_type(
    extension: str, types: tuple[str, ...], extensions: tuple[str, ...], chosen: str | None, chosen_for_url: str | None
) -> None:
    rules = FileRules(types=types, extensions=extensions)
    assert choose_type(extension, rules, strict=True) == chosen
    assert choose_type(extension, rules, strict=False) == chosen_for_url


def test_upload_gives_the_mapping_that_dify_took(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    inputs, problems = one(tmp_path, doc="notes.txt")
    assert problems == []
    assert inputs.has_local
    local = LocalFile(tmp_path / "notes.txt", "document")
    assert inputs.values["doc"] == local
    wanted = sent("20r-run-local-file")
    done = with_uploads(inputs, {local: wanted["doc"]["upload_file_id"]})
    assert done == Inputs({"id": "r", **wanted})


def test_a_remote_url_gives_the_mapping_that_dify_took(tmp_path: Path) -> None:
    wanted = sent("20t-run-remote-url")
    inputs, problems = one(tmp_path, doc=wanted["doc"]["url"])
    assert (inputs, problems) == (Inputs({"id": "r", **wanted}), [])


REFUSED = (
    "20x-run-file-as-string",
    "20y-run-file-missing",
    "20z-run-list-too-long",
    "20ze-run-transfer-method-missing",
)
ACCEPTED = ("20r-run-local-file", "20za-run-list-empty", "20zf-run-type-missing", "20zh-run-optional-list-empty-string")


@pytest.mark.parametrize("name", REFUSED + ACCEPTED)
def test_same_verdict_as_dify_on_json_lines(name: str, tmp_path: Path) -> None:
    accepted = exchange(name)["response"]["status"] == 200
    assert accepted == (name in ACCEPTED)
    _, problems = one(tmp_path, typed=True, **sent(name))
    assert bool(problems) != accepted


def test_custom_is_declared_by_leaving_the_type_out() -> None:
    local = LocalFile(Path("a.txt"), "custom")
    made = with_uploads(Inputs({"f": [local]}, None, True), {local: "u"}).values["f"]
    assert made == [{"transfer_method": "local_file", "upload_file_id": "u"}]
    taken = exchange("20zf-run-type-missing")
    assert taken["response"]["status"] == 200
    assert set(sent("20zf-run-type-missing")["doc"]) == set(made[0])


@pytest.mark.parametrize(
    "cell",
    ["a.txt|http://h/b.txt", " a.txt \n\nhttp://h/b.txt\n", "a.txt\r\nhttp://h/b.txt", ["a.txt", "http://h/b.txt"]],
)
def test_several_files_of_a_cell(cell: Any, tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    assert resolve(cell, FileRules(), FilePlace(tmp_path)) == [
        LocalFile(tmp_path / "a.txt", "document"),
        {"type": "document", "transfer_method": "remote_url", "url": "http://h/b.txt"},
    ]


def test_a_cell_names_files_below_the_folder_of_the_input_only(tmp_path: Path) -> None:
    inside = tmp_path / "in"
    (inside / "deep").mkdir(parents=True)
    for path in (tmp_path / "a.txt", inside / "b.txt", inside / "deep/c.txt"):
        path.touch()
    (tmp_path / "in2").mkdir()  # its name begins like that of the folder
    (tmp_path / "in2/d.txt").touch()
    (inside / "link.txt").symlink_to(tmp_path / "a.txt")
    (inside / "folder").symlink_to(tmp_path)
    (inside / "inner.txt").symlink_to(inside / "b.txt")
    for cell in ("b.txt", "deep/c.txt", "deep/../b.txt", str(inside / "b.txt"), "../in/b.txt", "inner.txt"):
        assert resolve(cell, FileRules(), FilePlace(inside))
    outside = ("../a.txt", str(tmp_path / "a.txt"), "link.txt", "folder/a.txt", "deep/../../a.txt", "../in2/d.txt")
    for cell in outside:
        with pytest.raises(FileRefused, match=r"is not below the folder .*; add --files-root .* if it may be sent"):
            resolve(cell, FileRules(), FilePlace(inside))
        assert resolve(cell, FileRules(), FilePlace(inside, tmp_path))
    assert resolve("/etc/hostname", FileRules(), FilePlace(inside, Path("/")))


def test_a_folder_that_is_a_link_is_the_folder_that_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a.txt").touch()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert resolve("a.txt", FileRules(), FilePlace(tmp_path / "link"))


@pytest.mark.parametrize(
    ("cell", "hint"),
    [
        ("a.txt;b.txt", "with | or a new line between them"),
        ("a.txt, b.txt", "with | or a new line between them"),
        ('["a.txt", "b.txt"]', "not as a JSON list"),
        ("c.txt", "relative paths begin at the input file's folder"),
    ],
)
def test_a_cell_that_names_several_files_in_another_way_is_told_ours(tmp_path: Path, cell: str, hint: str) -> None:
    with pytest.raises(FileRefused, match=f"there is no file .*; .*{re.escape(hint)}"):
        resolve(cell, FileRules(), FilePlace(tmp_path))


@pytest.mark.parametrize(
    ("methods", "cell", "message"),
    [
        (("remote_url",), "a.txt", "the app does not allow uploads of local files here; write an http or https URL"),
        (("local_file",), "http://h/a.txt", "the app does not allow URLs here; download the file and write its path"),
        (
            ("local_file",),
            [{"transfer_method": "remote_url", "url": "http://h/a.txt"}],
            "the app does not allow URLs here; download the file and write its path",
        ),
    ],
)
def test_methods(methods: tuple[str, ...], cell: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(FileRefused) as caught:
        resolve(cell, FileRules(methods=methods), FilePlace(tmp_path))
    assert (caught.value.kind, caught.value.message) == ("file_method", message)


@pytest.mark.parametrize(
    ("extension", "megabytes"), [(".png", 10), (".PNG", 10), (".mp4", 100), (".txt", 15), (".bmp", 15), (".mp3", None)]
)
def test_size_limit_by_extension(extension: str, megabytes: int | None) -> None:
    assert size_limit(extension, LIMITS) == (None if megabytes is None else megabytes * 1024 * 1024)


def test_a_file_of_exactly_the_limit_passes(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    rules = FileRules(limits={"file_size_limit": 1})
    path.write_bytes(bytes(1024 * 1024))
    assert resolve("a.txt", rules, FilePlace(tmp_path)) == [LocalFile(path, "document")]
    path.write_bytes(bytes(1024 * 1024 + 1))
    with pytest.raises(FileRefused) as caught:
        resolve("a.txt", rules, FilePlace(tmp_path))
    assert caught.value.kind == "file_too_large"


def test_the_files_column_fills_the_list_of_the_request(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    doc = "http://h/d.txt"
    inputs, problems = one(tmp_path, files_column="images", doc=doc, images="a.png\nhttp://h/b.png")
    local = LocalFile(tmp_path / "a.png", "image")
    url = {"type": "image", "transfer_method": "remote_url", "url": "http://h/b.png"}
    assert problems == []
    assert inputs.files == [local, url]
    assert inputs.has_local
    assert "images" not in inputs.values
    done = with_uploads(inputs, {local: "u"})
    assert done.files == [{"type": "image", "transfer_method": "local_file", "upload_file_id": "u"}, url]
    assert not done.has_local
    assert one(tmp_path, files_column="images", doc=doc, images="")[0].files is None


def test_the_app_limits_its_own_list(tmp_path: Path) -> None:
    cell = "|".join(["http://h/b.png"] * 4)
    _, problems = one(tmp_path, files_column="images", doc="http://h/d.txt", images=cell)
    assert [(problem.kind, problem.column) for problem in problems] == [("too_many_files", "images")]


def test_find_local_gives_each_file_once_in_order() -> None:
    a, b, c = (LocalFile(Path(name), "document") for name in "abc")
    assert find_local({"x": b, "y": [a, b, {"type": "image"}], "z": "text"}, [c, a]) == [b, a, c]
    assert find_local({"x": "text"}) == []


def test_a_missing_upload_is_an_error_and_no_hole() -> None:
    with pytest.raises(KeyError):
        with_uploads(Inputs({"x": LocalFile(Path("a"), "document")}, None, True), {})


@pytest.mark.parametrize(
    ("name", "mime"), [("a.txt", "text/plain"), ("a.PNG", "image/png"), ("a", None), ("a.zzz", None)]
)
def test_there_is_always_a_content_type(name: str, mime: str | None) -> None:
    assert exchange("20g-upload-no-mimetype")["response"]["status"] == 415
    file = LocalFile(Path("/x", name), "document")
    assert (file.name, file.mime_type) == (name, mime or "application/octet-stream")
