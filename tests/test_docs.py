"""Help, README and .env.example say exactly what the code knows."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dify_batch.cli.arguments import COMMANDS, build_parser
from dify_batch.cli.completion import SHELLS
from dify_batch.flags import BY_ENV, FLAGS, GROUPS, Flag, env_example, readme_table
from dify_batch.settings import Settings

ROOT = Path(__file__).parent.parent


def between_markers(text: str) -> str:
    match = re.search(r"<!-- flags -->\n(.*)<!-- /flags -->", text, re.DOTALL)
    assert match, "README.md has lost its markers <!-- flags --> and <!-- /flags -->"
    return match[1]


def test_readme_has_the_table_as_generated() -> None:
    assert between_markers((ROOT / "README.md").read_text(encoding="utf-8")) == readme_table()


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


def test_the_readme_mentions_no_flag_that_does_not_exist() -> None:
    known = {name for flag in FLAGS for name in flag.names}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", readme_table())) <= known


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
