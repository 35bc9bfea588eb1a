"""Help, README, manual and .env.example say exactly what the code knows."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from dify_batch.cli.arguments import COMMANDS, build_parser
from dify_batch.cli.completion import SHELLS
from dify_batch.engine.row import Stage
from dify_batch.errors import EXIT_OF_CODE, Exit
from dify_batch.flags import BY_ENV, FLAGS, GROUPS, Flag
from dify_batch.ledger.formats import Paths, result_line
from dify_batch.outcomes import RunRef, RunResult
from dify_batch.settings import Settings
from docs.generate import AGENTS, MANUAL, TABLES, agents, env_example, fill, pages

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_tables_are_as_generated(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == fill(text), "run: uv run python docs/generate.py"


def test_each_table_stands_in_the_manual_once() -> None:
    texts = [page.read_text(encoding="utf-8") for page in pages()]
    for name, table in TABLES.items():
        assert sum(f"<!-- {name} -->\n{table()}<!-- /{name} -->" in text for text in texts) == 1


def test_help_agents_has_the_page_of_the_manual() -> None:
    assert AGENTS.read_text(encoding="utf-8") == agents(), "run: uv run python docs/generate.py"


def test_env_example_is_as_generated() -> None:
    assert (ROOT / ".env.example").read_text(encoding="utf-8") == env_example()


def test_env_example_holds_each_setting_once_and_no_other() -> None:
    names = re.findall(r"^(?:# )?([A-Z_]+)=", env_example(), re.MULTILINE)
    assert sorted(names) == sorted(BY_ENV)


def test_env_example_shows_defaults_that_the_code_reads_as_the_defaults() -> None:
    shown = dict(re.findall(r"^# ([A-Z_]+)=(.+)$", env_example(), re.MULTILINE))
    assert shown.keys() >= {"TIMEOUT", "DIFY_BATCH_STUCK_AFTER", "DIFY_API_BASE_URL"}
    for name, text in shown.items():
        assert BY_ENV[name].read(text, name) == BY_ENV[name].default


def test_every_flag_and_setting_is_in_help() -> None:
    text = build_parser().format_help()
    for flag in FLAGS:
        for name in flag.names or (flag.env,):
            assert re.search(rf"(?<![\w-]){name}(?![\w-])", text), name
        if flag.env:
            assert flag.env in text
    for name in (*GROUPS, *COMMANDS):
        assert name in text


def test_the_parser_knows_exactly_the_flags_of_the_table() -> None:
    parser = build_parser()
    known = {name for action in parser._actions for name in action.option_strings}
    assert known == {name for flag in FLAGS for name in flag.names}
    assert any(isinstance(action, argparse._SubParsersAction) for action in parser._actions)


OTHERS_FLAGS = {"--docker", "--only", "--strict", "--group", "--quick", "--select", "--check", "--help", "--port"}
"""Flags of other programs that the documents call: Zensical, uv, the benchmark, qsv, ruff, the simulator."""
WORLDS_FLAGS = {"--seeds", "--history", "--coverage", "--mutants"}
"""Flags of `python -m tests.world`."""


def known_flags() -> set[str]:
    found: set[str] = set()
    parsers: list[argparse.ArgumentParser] = [build_parser()]
    while parsers:
        for action in parsers.pop()._actions:
            found |= set(action.option_strings)
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
    return found


@pytest.mark.parametrize("page", [*pages(), ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"], ids=lambda page: page.name)
def test_a_page_mentions_no_flag_that_does_not_exist(page: Path) -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page.read_text(encoding="utf-8")))
    assert named - known_flags() - OTHERS_FLAGS - WORLDS_FLAGS - {"--flag"} == set()


def test_each_error_code_has_its_entry_with_cause_and_cure_under_its_status() -> None:
    text = (MANUAL / "troubleshooting.md").read_text(encoding="utf-8")
    entries: dict[str, str] = {}
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        status = re.match(r".*\((?:status )?([\d, ]+)\)", part)
        for entry in re.split(r"^### ", part, flags=re.MULTILINE)[1:]:
            code, body = entry.split("\n", 1)
            assert code not in entries
            assert body.count("**Cause.**") == body.count("**Cure.**") == 1, code
            assert status, code
            assert str(int(EXIT_OF_CODE[code])) in status[1].split(", "), code
            entries[code] = body
    assert entries.keys() == EXIT_OF_CODE.keys()


def test_the_page_for_programs_names_each_code_beside_its_status() -> None:
    text = (MANUAL / "agents.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d, ]+) \| (.*?) \|", text, re.MULTILINE)
    found = {code: status for status, cell in rows for code in re.findall(r"`(\w+)`", cell)}
    assert found.keys() == EXIT_OF_CODE.keys()
    for code, status in found.items():
        assert str(int(EXIT_OF_CODE[code])) in status.split(", "), code


def test_the_page_of_statuses_has_each_once() -> None:
    text = (MANUAL / "exit.md").read_text(encoding="utf-8").split("## ")[0]
    statuses = [
        int(status) for cell in re.findall(r"^\| ([\d, ]+) \|", text, re.MULTILINE) for status in cell.split(", ")
    ]
    assert sorted(statuses) == sorted(int(status) for status in Exit)


def test_the_page_of_files_has_each_file_and_each_key_of_a_result() -> None:
    text = (MANUAL / "files.md").read_text(encoding="utf-8")
    for path in Paths.of(Path("results.jsonl")).all:
        assert f"| `{path.name}` |" in text
    run = RunResult(RunRef("r", "t"), "succeeded", {})
    keys = json.loads(result_line("a", {}, run, retry_count=0, now=0.0))
    named = re.findall(
        r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", text.split("## A result line")[1], re.MULTILINE))
    )
    assert [name for name in named if name in keys] == list(keys)


def test_the_picture_of_the_house_has_every_room() -> None:
    text = (MANUAL / "design.md").read_text(encoding="utf-8")
    picture = text.split("```")[1]
    rooms = {
        path.stem for path in (ROOT / "dify_batch").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert {room for room in rooms if room[0] != "_"} - {"simulator"} <= set(re.findall(r"\w+", picture))
    stages = re.findall(r"^\| ([A-Z]+) \|", text, re.MULTILINE)
    assert stages == [stage.name for stage in Stage]


def test_each_extra_says_what_it_is_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (MANUAL / "start.md").read_text(encoding="utf-8").split("| extra |")[1].split("```")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == sorted(project["optional-dependencies"])


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and Python-Markdown make it for plain words."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "examples/README.md"])
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), link


def test_each_page_stands_in_the_contents() -> None:
    named = re.findall(r"^  - .*: (\w[\w-]*\.md)$", (MANUAL.parent / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(page.name for page in MANUAL.glob("*.md"))


def test_the_manual_is_built_without_a_complaint_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    shutil.copytree(MANUAL.parent, tmp_path / "docs", ignore=shutil.ignore_patterns("site", "__pycache__"))
    shutil.copy(ROOT / "CHANGELOG.md", tmp_path)
    build = [sys.executable, "-m", "zensical", "build", "--strict", "-f", "docs/mkdocs.yml"]
    done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    built = sorted((tmp_path / "docs" / "site").glob("*.html"))
    assert {page.stem for page in built} >= {page.stem for page in MANUAL.glob("*.md")}
    for page in built:
        text = page.read_text(encoding="utf-8")
        loads = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?(?:https?:)?//[^>]*>", text)
        loads += [
            tag
            for tag in re.findall(r"<link\b[^>]*\bhref=\"?(?:https?:)?//[^>]*>", text)
            if re.search(r"stylesheet|icon|preload|preconnect|manifest", tag)
        ]
        assert loads == [], page.name
    assert "http" not in re.sub(r"http://(www\.w3\.org/|127\.0\.0\.1)", "", (MANUAL / "batch.svg").read_text())


def test_every_setting_has_a_flag_or_a_variable_and_the_other_way_round() -> None:
    assert set(Settings.__dataclass_fields__) == {flag.dest for flag in FLAGS} - {"help", "version"}


def test_defaults_of_the_python_api_are_those_of_the_flags() -> None:
    settings = Settings(input="a.csv", output=Path("b.jsonl"), demo=True)
    for flag in FLAGS:
        if flag.dest not in ("input", "output", "demo", "api_key", "help", "version"):
            assert getattr(settings, flag.dest) == flag.default, flag.dest


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)
def test_words_of_a_flag(flag: Flag) -> None:
    for text in (flag.help, flag.doc):
        assert text == " ".join(text.split())
    assert not flag.help.endswith(".")
    assert flag.dest in ("help", "version") or flag.doc.endswith(".")


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_names_every_long_flag(shell: str) -> None:
    import shtab

    script = shtab.complete(build_parser(complete=True), shell)
    for flag in FLAGS:
        if flag.names:
            assert flag.names[-1].lstrip("-") in script


def test_the_bash_completion_is_valid_bash() -> None:
    import shtab

    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    script = shtab.complete(build_parser(complete=True), "bash")
    done = subprocess.run([bash, "-n"], input=script, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(os.name != "posix", reason="a recipe for a shell")
@pytest.mark.parametrize("status", [0, 1, 2, 75, 130, 143])
def test_the_recipe_runs_failed_rows_again_after_status_1_alone(status: int, tmp_path: Path) -> None:
    """After any other one rows may still run, and --retry is not for them."""
    text = (MANUAL / "recipes.md").read_text(encoding="utf-8")
    (recipe,) = [block for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if "--retry\n" in block]
    command = tmp_path / "dify-batch"
    command.write_text(f'#!/bin/sh\necho "$*" >> calls\nexit {status}\n')
    command.chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    subprocess.run(["sh", "-c", recipe], cwd=tmp_path, env={"PATH": path}, check=False)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert ["--retry" in call for call in calls] == ([False, True] if status == 1 else [False])


def test_no_page_takes_any_other_end_for_failed_rows() -> None:
    files = [ROOT / "README.md", *MANUAL.rglob("*.md"), *(ROOT / "examples").iterdir()]
    wrong = [
        file.name
        for file in files
        if re.search(r"dify-batch [^\n]*\|\|[^\n]*--retry", file.read_text(encoding="utf-8"))
    ]
    assert wrong == []
