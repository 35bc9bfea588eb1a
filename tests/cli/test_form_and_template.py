"""`dify-batch form` and `dify-batch template`: what the app asks for, and a table that it accepts."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from dify_batch.errors import UsageError
from dify_batch.input.fields import Variable
from dify_batch.input.form import Form
from dify_batch.input.rows import RowSource
from dify_batch.reports.template import write_template
from dify_batch.simulator import DEMO_KEYS, Config, SimulatorProcess
from tests.support import harness


@pytest.fixture(scope="module")
def server() -> Iterator[SimulatorProcess]:
    with SimulatorProcess(Config(latency=0.02)) as simulator:
        yield simulator


@pytest.fixture
def env(server: SimulatorProcess) -> dict[str, str]:
    return harness.environment(server.base_url, key="app-echo")


def test_the_form_as_text(env: dict[str, str], tmp_path: Path) -> None:
    done = harness.run(tmp_path, env, "form")
    assert (done.status, done.err) == (0, "")
    assert "W1 echo (workflow)" in done.out
    lines = {line.split()[0]: line for line in done.out.splitlines()[3:]}
    assert list(lines) == ["query", "language", "n", "tone", "flag", "meta"]
    assert "required" in lines["query"]
    assert "Query" in lines["query"]
    assert "text of at most 48 characters" in lines["language"]
    assert "one of formal, casual, neutral" in lines["tone"]
    assert "optional" in lines["flag"]


def test_the_form_as_json_and_as_yaml_say_the_same(env: dict[str, str], tmp_path: Path) -> None:
    as_json = json.loads(harness.run(tmp_path, env, "form", "-o", "json").out)
    assert yaml.safe_load(harness.run(tmp_path, env, "form", "-o", "yaml").out) == as_json
    assert as_json["app"]["mode"] == "workflow"
    by_name = {one["name"]: one for one in as_json["inputs"]}
    assert by_name["query"] == {"name": "query", "label": "Query", "type": "paragraph", "required": True}
    assert by_name["tone"]["options"] == ["formal", "casual", "neutral"]
    assert by_name["language"]["max_length"] == 48


@pytest.mark.parametrize("name", ["data.csv", "data.xlsx"])
def test_a_template_with_an_example_is_accepted_by_the_app_as_it_stands(
    name: str, server: SimulatorProcess, env: dict[str, str], tmp_path: Path
) -> None:
    done = harness.run(tmp_path, env, "template", "-o", name, "--example", "--json")
    assert (done.status, done.err) == (0, "")
    assert json.loads(done.out) == {
        "output": name,
        "columns": ["id", "query", "language", "n", "tone", "flag", "meta"],
        "required": ["id", "query"],
    }
    ran = harness.run(tmp_path, env, "-i", name, "-o", f"{name}.jsonl", "--no-bom", "--json")
    assert ran.status == 0, ran.err
    assert ran.summary["success"] == 1
    inputs = json.loads((tmp_path / f"{name}.jsonl").read_text())["inputs"]
    assert inputs == {
        "id": "row-1",
        "query": "an example of Query",
        "language": "an example of language",
        "n": 1,
        "tone": "formal",
        "flag": True,
        "meta": {},
    }


def test_an_empty_template_has_a_header_alone_and_a_mark_for_excel(env: dict[str, str], tmp_path: Path) -> None:
    assert harness.run(tmp_path, env, "template", "-o", "a.csv").status == 0
    assert harness.run(tmp_path, env, "template", "-o", "b.csv", "--no-bom").status == 0
    assert (tmp_path / "a.csv").read_bytes() == b"\xef\xbb\xbf" + (tmp_path / "b.csv").read_bytes()
    with (tmp_path / "b.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["id", "query", "language", "n", "tone", "flag", "meta"]]


def test_a_workbook_has_lists_limits_and_comments(env: dict[str, str], tmp_path: Path) -> None:
    assert harness.run(tmp_path, env, "template", "-o", "data.xlsx").status == 0
    with zipfile.ZipFile(tmp_path / "data.xlsx") as book:
        sheet = book.read("xl/worksheets/sheet1.xml").decode()
        comments = book.read("xl/comments1.xml").decode()
    assert "&quot;formal,casual,neutral&quot;" in sheet or '"formal,casual,neutral"' in sheet
    assert 'type="textLength"' in sheet
    assert "Optional: text of at most 48 characters." in comments
    assert "Query. Required: long text." in comments


def test_options_that_excel_takes_in_no_list_stand_in_a_sheet_of_their_own(tmp_path: Path) -> None:
    options = tuple(f"option {number}, of many" for number in range(40))
    path = tmp_path / "data.xlsx"
    write_template(Form((Variable("pick", "Pick", "select", True, options=options),)), path)
    with zipfile.ZipFile(path) as book:
        assert "lists!$B$1:$B$40" in book.read("xl/worksheets/sheet1.xml").decode()
        assert "option 39, of many" in book.read("xl/sharedStrings.xml").decode()
    with RowSource.open(str(path)) as source:  # the hidden sheet is not taken for the table
        assert source.header == ("id", "pick")


def test_words_of_a_form_are_no_formulas(tmp_path: Path) -> None:
    path = tmp_path / "data.xlsx"
    evil = Variable("=cmd", '=HYPERLINK("http://x")', "select", False, options=("=1+1",))
    write_template(Form((evil,)), path, example=True)
    with zipfile.ZipFile(path) as book:
        assert "<f>" not in book.read("xl/worksheets/sheet1.xml").decode()


def test_an_input_that_is_called_id_is_the_first_column_once(tmp_path: Path) -> None:
    form = Form((Variable("query", "Query", "paragraph", True), Variable("id", "Number", "text-input", False)))
    assert write_template(form, tmp_path / "data.csv").columns == ("id", "query")


@pytest.mark.parametrize("name", ["data.txt", "there.csv"])
def test_a_file_that_cannot_be_written_is_told_and_left_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / "there.csv").write_text("mine")
    with pytest.raises(UsageError) as caught:
        write_template(Form(()), tmp_path / name)
    assert name in caught.value.message
    assert (tmp_path / "there.csv").read_text() == "mine"
    assert not (tmp_path / "data.txt").exists()


@pytest.mark.parametrize("command", [("form",), ("template", "-o", "data.csv")])
def test_a_key_that_the_server_refuses_is_told(
    command: tuple[str, ...], server: SimulatorProcess, tmp_path: Path
) -> None:
    done = harness.run(tmp_path, harness.environment(server.base_url, key="app-nobody"), *command)
    assert (done.status, done.out) == (4, "")
    assert "app-nobody" not in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_warning_about_settings_is_for_people_alone(server: SimulatorProcess, tmp_path: Path) -> None:
    env = harness.environment(server.base_url, key="app-echo", DIFY_BATCH_WIAT="3")
    assert "DIFY_BATCH_WIAT" in harness.run(tmp_path, env, "form").err
    for call in (("form", "-o", "json"), ("template", "-o", "a.csv", "--json"), ("try", "--set", "query=x", "--json")):
        done = harness.run(tmp_path, env, *call)
        assert (done.status, done.err) == (0, "")


@pytest.mark.parametrize("kind", ["chatflow", "chat", "agent"])
def test_the_message_stands_in_form_and_template(
    server: SimulatorProcess, env: dict[str, str], tmp_path: Path, kind: str
) -> None:
    env = harness.environment(server.base_url, key=DEMO_KEYS[kind])
    form = json.loads(harness.run(tmp_path, env, "form", "-o", "json", "--query-column", "question").out)
    assert [(one["name"], one["required"]) for one in form["inputs"]] == [("question", True), ("language", False)]
    harness.run(tmp_path, env, "template", "-o", "data.csv", "--example")
    done = harness.run(tmp_path, env, "-i", "data.csv", "-o", "results.jsonl", "--json")
    assert (done.status, done.summary["success"]) == (0, 1)
