"""Settings: where they come from, what is refused and in which words, and that the key never shows."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dify_batch.errors import AuthError, DifyBatchError, Exit, UsageError
from dify_batch.settings import Secret, Settings, load_settings, mask_url, read_base_url

KEY = "app-Ab12Cd34Ef56Gh78Ij90Kl12"
CALL = {"input": "data.csv", "output": "results.jsonl"}
ID = "3b1f0d4e-7c2a-4e57-9f0b-2d6c8a1e5f90"


def load(
    tmp_path: Path, given: Mapping[str, Any] = {}, environ: Mapping[str, str] = {}, env: str | None = None
) -> tuple[Settings, tuple[str, ...]]:
    """Settings of a call in `tmp_path`, with a key in the environment and `env` as its .env file."""
    if env is not None:
        (tmp_path / ".env").write_text(env, encoding="utf-8")
        (tmp_path / ".env").chmod(0o600)
    return load_settings({**CALL, **given}, {"DIFY_API_KEY": KEY, **environ}, tmp_path)


def test_defaults_of_the_contract(tmp_path: Path) -> None:
    settings, warnings = load(tmp_path)
    assert warnings == ()
    assert (settings.wait, settings.concurrency, settings.rate, settings.mode) == (0, 5, None, "streaming")
    assert (settings.timeout, settings.max_retries) == (300, 3)
    assert (settings.initial_retry_delay, settings.max_retry_delay) == (1, 60)
    assert (settings.retry_policy, settings.settle, settings.stuck_after) == ("safe", 10, None)
    assert (settings.max_outage, settings.max_failures, settings.max_runtime) == (900, None, None)
    assert (settings.base_url, settings.workflow_id) == ("https://api.dify.ai/v1", None)
    assert (settings.bom, settings.preflight, settings.output) == (True, True, Path("results.jsonl"))


def test_flag_before_environment_before_file(tmp_path: Path) -> None:
    env = "TIMEOUT=1\nMAX_RETRIES=1\nDIFY_BATCH_SETTLE=1\n"
    settings, _ = load(tmp_path, {"timeout": "3"}, {"TIMEOUT": "2", "MAX_RETRIES": "2"}, env)
    assert (settings.timeout, settings.max_retries, settings.settle) == (3, 2, 1)


def test_empty_values_count_as_not_set(tmp_path: Path) -> None:
    settings, _ = load(tmp_path, {}, {"TIMEOUT": "", "DIFY_WORKFLOW_ID": " "}, "TIMEOUT=7\nMAX_RETRIES=\n")
    assert (settings.timeout, settings.max_retries, settings.workflow_id) == (7, 3, None)


@pytest.mark.parametrize(
    ("given", "environ", "env", "concurrency"),
    [
        ({"wait": "2"}, {}, "", 1),
        ({}, {"DIFY_BATCH_WAIT": "0.5"}, "", 1),
        ({}, {}, "DIFY_BATCH_WAIT=2", 1),
        ({"wait": "0"}, {}, "", 5),
        ({"wait": "2", "concurrency": "4"}, {}, "", 4),
        ({"wait": "2"}, {"DIFY_BATCH_CONCURRENCY": "auto"}, "", "auto"),
        ({"wait": "2"}, {}, "DIFY_BATCH_CONCURRENCY=8", 8),
    ],
)
def test_a_wait_alone_means_one_at_a_time(
    tmp_path: Path, given: dict[str, str], environ: dict[str, str], env: str, concurrency: int | str
) -> None:
    assert load(tmp_path, given, environ, env)[0].concurrency == concurrency


def test_the_environment_of_the_process_is_left_alone(tmp_path: Path) -> None:
    before = dict(os.environ)
    load(tmp_path, env="DIFY_BATCH_RATE=5/s\nSOMETHING_ELSE=1\n")
    assert dict(os.environ) == before


def test_another_file_in_place_of_dotenv(tmp_path: Path) -> None:
    other = tmp_path / "prod.env"
    other.write_bytes(b"\xef\xbb\xbfTIMEOUT=9\r\nexport DIFY_BATCH_RATE='2/s' # slow\r\n")
    settings, _ = load(tmp_path, {"env_file": str(other)}, {}, "TIMEOUT=1\n")
    assert (settings.timeout, settings.rate, settings.env_file) == (9, 2, other)


def test_a_folder_called_dotenv_is_no_settings_file(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    assert load(tmp_path)[0].timeout == 300


def test_a_file_with_the_key_that_others_can_read_is_warned_of(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(f"DIFY_API_KEY={KEY}\n")
    file.chmod(0o644)
    _, warnings = load_settings(CALL, {}, tmp_path)
    assert warnings == (f"Others can read {file}, and it holds DIFY_API_KEY. Type: chmod 600 {file}",)
    file.chmod(0o600)
    assert load_settings(CALL, {}, tmp_path)[1] == ()
    file.write_text("TIMEOUT=5\n")
    file.chmod(0o644)
    assert load(tmp_path)[1] == ()


def test_a_misspelt_variable_is_warned_of_with_the_nearest(tmp_path: Path) -> None:
    _, warnings = load(tmp_path, {}, {"DIFY_BATCH_CONCURENCY": "9"}, "DIFY_API_URL=http://localhost/v1\n")
    assert warnings == (
        "DIFY_API_URL is no setting and is ignored. Did you mean DIFY_API_BASE_URL?",
        "DIFY_BATCH_CONCURENCY is no setting and is ignored. Did you mean DIFY_BATCH_CONCURRENCY?",
    )


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("DIFY_BATCH_CONCURENCY=9", "DIFY_BATCH_CONCURRENCY"),
        ("DIFY_BATCH_CONCURENCY=", "DIFY_BATCH_CONCURRENCY"),
        ("DIFY_BACTH_CONCURRENCY=9", "DIFY_BATCH_CONCURRENCY"),
        ("CONCURRENCY=", "DIFY_BATCH_CONCURRENCY"),
        ("dify_batch_rate=5/s", "DIFY_BATCH_RATE"),
        ("DIFY_BATCH_TIMEOUT=3", "TIMEOUT"),
        ("TIMOUT=3", "TIMEOUT"),
        ("API_KEY=x", "DIFY_API_KEY"),
        ("MODE=production", None),
        ("HTTP_TIMEOUT=3", None),
        ("DATABASE_URL=x", None),
    ],
)
def test_what_in_a_settings_file_is_nearly_a_setting(tmp_path: Path, line: str, meant: str | None) -> None:
    _, warnings = load(tmp_path, env=f"{line}\n")
    name = line.split("=")[0]
    assert warnings == ((f"{name} is no setting and is ignored. Did you mean {meant}?",) if meant else ())


def test_the_environment_is_everybodys(tmp_path: Path) -> None:
    assert load(tmp_path, {}, {"CONCURRENCY": "9", "TIMOUT": "3", "DIFY_PORT": "5001"})[1] == ()
    assert load(tmp_path, {}, {"DIFY_BACTH_RATE": "5/s"})[1][0].endswith("Did you mean DIFY_BATCH_RATE?")


def test_a_setting_that_stands_twice_in_its_file(tmp_path: Path) -> None:
    settings, warnings = load(tmp_path, env="TIMEOUT=1\n\n# more\nTIMEOUT=2\n")
    assert settings.timeout == 2
    assert warnings == (f"{tmp_path / '.env'}: TIMEOUT is set on line 1 and again on line 4; the last one counts",)


def test_a_misspelt_key_is_named_where_the_key_is_missing(tmp_path: Path) -> None:
    with pytest.raises(AuthError) as caught:
        load_settings(CALL, {"DIFY_API_KYE": KEY}, tmp_path)
    assert "Did you mean DIFY_API_KEY?" in str(caught.value.hint)
    assert KEY not in str(caught.value.as_dict())


@pytest.mark.parametrize("kind", ["a folder", "a pipe", "a device", "a socket"])
def test_an_output_that_is_no_regular_file(tmp_path: Path, kind: str) -> None:
    path = Path("/dev/null") if kind == "a device" else tmp_path / "out"
    with contextlib.ExitStack() as stack:
        if kind == "a folder":
            path.mkdir()
        elif kind == "a pipe":
            os.mkfifo(path)
        elif kind == "a socket":
            stack.enter_context(socket.socket(socket.AF_UNIX)).bind(str(path))
        with pytest.raises(UsageError) as caught:
            load(tmp_path, {"output": str(path)})
    assert caught.value.message.startswith(f'--output: "{path}" is {kind}')
    assert caught.value.exit_status == Exit.USAGE


def test_the_working_directory_is_a_folder_and_no_missing_output(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r'--output: "\." is a folder'):
        load(tmp_path, {"output": "."})
    with pytest.raises(UsageError, match="-o/--output is missing"):
        load(tmp_path, {"output": ""})


@pytest.mark.parametrize(
    ("text", "url", "noted"),
    [
        ("https://api.dify.ai/v1", "https://api.dify.ai/v1", False),
        ("https://api.dify.ai/v1///", "https://api.dify.ai/v1", False),
        (" https://api.dify.ai/v1\n", "https://api.dify.ai/v1", False),
        ("HTTPS://Dify.example.com/v1", "https://Dify.example.com/v1", False),
        ("http://localhost:8080", "http://localhost:8080/v1", True),
        ("http://localhost/", "http://localhost/v1", True),
        ("http://[::1]:5001/v1", "http://[::1]:5001/v1", False),
        ("https://proxy.example.com/dify/v1", "https://proxy.example.com/dify/v1", False),
        ("https://proxy.example.com/dify", "https://proxy.example.com/dify", True),
        ("https://proxy.example.com/workflow/v1", "https://proxy.example.com/workflow/v1", False),
        ("http://u:p@host/v1", "http://u:p@host/v1", False),
    ],
)
def test_base_urls_that_work(text: str, url: str, noted: bool) -> None:
    result, note = read_base_url(text)
    assert result == url
    assert (note is not None) == noted
    assert read_base_url(result)[0] == url


def test_the_note_of_an_added_path_is_a_warning(tmp_path: Path) -> None:
    settings, warnings = load(tmp_path, {}, {"DIFY_API_BASE_URL": "http://me:secret@localhost"})
    assert settings.base_url == "http://me:secret@localhost/v1"
    assert warnings == (
        "DIFY_API_BASE_URL has no path; http://***@localhost/v1 is used. Write it so to be rid of this note.",
    )
    assert "secret" not in repr(settings)


def test_credentials_in_a_url_are_masked() -> None:
    assert mask_url("http://me:p@ss@host/v1?a=b@c") == "http://***@host/v1?a=b@c"
    assert mask_url("http://host/v1") == "http://host/v1"


def test_without_a_key_it_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(AuthError) as caught:
        load_settings(CALL, {}, tmp_path)
    assert (caught.value.code, caught.value.exit_status) == ("not_logged_in", Exit.AUTH)
    assert caught.value.message == "no API key: DIFY_API_KEY is not set"
    assert ".env" in str(caught.value.hint)


def test_the_demo_needs_no_account(tmp_path: Path) -> None:
    environ = {"DIFY_API_BASE_URL": "nonsense", "DIFY_API_KEY": "<key>", "DIFY_WORKFLOW_ID": "<id>"}
    settings, _ = load_settings({**CALL, "demo": True}, environ, tmp_path)
    assert settings.demo
    assert not load_settings({**CALL, "demo": True}, {}, tmp_path)[0].api_key


def test_from_python() -> None:
    settings = Settings(input="a.csv", output="b.jsonl", api_key=KEY, wait=1)  # type: ignore[arg-type]
    assert (settings.output, settings.api_key.reveal(), settings.concurrency) == (Path("b.jsonl"), KEY, 1)
    assert Settings(input="a.csv", output=Path("b"), api_key=Secret(KEY)).concurrency == 5
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.wait = 2  # type: ignore[misc]
    assert dataclasses.replace(settings, limit=3).limit == 3


def test_a_real_key_or_id_is_no_placeholder() -> None:
    for key in (KEY, "app-demo", "app-echo", "app-0000000000000000", "app-yourKeyCouldBeginSo12"):
        assert Settings(input="a", output=Path("b"), api_key=Secret(key), workflow_id=ID).api_key.reveal() == key


def test_the_key_shows_nowhere(tmp_path: Path) -> None:
    settings, _ = load(tmp_path)
    assert settings.api_key.reveal() == KEY
    for shown in (repr(settings), str(settings), f"{settings.api_key}", f"{settings.api_key!r}"):
        assert KEY not in shown
    assert (settings.api_key, Secret("")) == (Secret(KEY), Secret())
    assert settings.api_key != KEY
    assert len({Secret(KEY), Secret(KEY), Secret("other")}) == 2


def test_an_error_in_the_settings_is_an_error_of_this_package(tmp_path: Path) -> None:
    with pytest.raises(DifyBatchError):
        load(tmp_path, {"rate": "x"})
