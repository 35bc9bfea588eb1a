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

from dify_batch.addressing import check_certificates
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
    assert (settings.wait, settings.concurrency, settings.rate, settings.mode) == (0, 5, None, "auto")
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
    ],
)
def test_base_urls_that_work(text: str, url: str, noted: bool) -> None:
    result, note = read_base_url(text)
    assert result == url
    assert (note is not None) == noted
    assert read_base_url(result)[0] == url


def test_the_note_of_an_added_path_is_a_warning(tmp_path: Path) -> None:
    settings, warnings = load(tmp_path, {}, {"DIFY_API_BASE_URL": "http://localhost"})
    assert settings.base_url == "http://localhost/v1"
    assert warnings == (
        "DIFY_API_BASE_URL has no path; http://localhost/v1 is used. Write it so to be rid of this note.",
    )


# ------------------------------------------------------------ what came out otherwise than it was meant


OWN = "https://dify.example.com/v1"


def refused(tmp_path: Path, environ: Mapping[str, str], env: str | None = None, given: Mapping[str, Any] = {}) -> str:
    with pytest.raises(UsageError) as caught:
        load(tmp_path, given, environ, env)
    assert caught.value.exit_status == Exit.USAGE
    assert caught.value.hint
    assert KEY not in str(caught.value.as_dict())
    return f"{caught.value.message}\n{caught.value.hint}"


@pytest.mark.parametrize("empty", ["", " ", "\t"])
def test_an_address_that_came_out_empty_is_no_wish_for_the_public_cloud(tmp_path: Path, empty: str) -> None:
    assert "is there and empty, in the environment" in refused(tmp_path, {"DIFY_API_BASE_URL": empty})
    told = refused(tmp_path, {}, f"DIFY_API_BASE_URL={empty}\nDIFY_API_KEY={KEY}\n")
    assert "is there and empty, in .env" in told
    assert "api.dify.ai" not in told
    # a file that has the address is no reason to take no notice of the variable
    both = f"DIFY_API_BASE_URL={OWN}\nDIFY_API_KEY={KEY}\n"
    assert "environment" in refused(tmp_path, {"DIFY_API_BASE_URL": empty}, both)
    settings, _ = load(tmp_path, {}, {}, f"# DIFY_API_BASE_URL=\nDIFY_API_KEY={KEY}\n")
    assert settings.base_url == "https://api.dify.ai/v1"
    assert load(tmp_path, {"demo": True}, {"DIFY_API_BASE_URL": empty})[0].demo


@pytest.mark.parametrize(
    "name", ["DIFY_API_BASE_URL", "DIFY_API_KEY", "TIMEOUT", "DIFY_BATCH_USER", "DIFY_WORKFLOW_ID"]
)
@pytest.mark.parametrize("text", ["${NOBODY_SET_THIS}", "x${NOBODY_SET_THIS}y", "'${NOBODY_SET_THIS}'"])
def test_a_setting_out_of_a_variable_that_is_set_nowhere(tmp_path: Path, name: str, text: str) -> None:
    told = refused(tmp_path, {}, f"A=1\n{name}={text}\n")
    assert f"line 2: {name} takes its value from ${{NOBODY_SET_THIS}}" in told


def test_a_setting_out_of_a_variable_that_is_set(tmp_path: Path) -> None:
    env = (
        f"HOST=dify.example.com\nDIFY_API_BASE_URL=https://${{HOST}}/v1\nTIMEOUT=${{SECONDS:-7}}\nDIFY_API_KEY={KEY}\n"
    )
    settings, _ = load(tmp_path, {}, {}, env)
    assert (settings.base_url, settings.timeout) == (OWN, 7)
    settings, _ = load(tmp_path, {}, {"SECONDS": "9", "DIFY_API_KEY": KEY}, env)
    assert settings.timeout == 9
    assert "is there and empty" in refused(tmp_path, {"H": ""}, f"DIFY_API_BASE_URL=${{H}}\nDIFY_API_KEY={KEY}\n")


def test_lines_of_another_program_are_no_error(tmp_path: Path) -> None:
    env = "OTHER=${NOBODY_SET_THIS}\nPATH_OF_OURS=${HOME}/x:${ALSO_NOT}\nset -a\n[section]\nTIMEOUT=5\n"
    settings, warnings = load(tmp_path, {}, {}, env)
    assert settings.timeout == 5
    assert [warning.rpartition(": ")[2] for warning in warnings] == ["not NAME=value, passed over"] * 2


@pytest.mark.parametrize(
    "name", ["DIFY_API_BASE_URL", "DIFY_API_KEY", "TIMEOUT", "DIFY_BATCH_RATE", "DIFY_WORKFLOW_ID"]
)
@pytest.mark.parametrize("quote", ["'", '"'])
def test_quotes_that_docker_hands_on_are_told(tmp_path: Path, name: str, quote: str) -> None:
    value = {"DIFY_API_KEY": KEY, "TIMEOUT": "5", "DIFY_BATCH_RATE": "5/s", "DIFY_WORKFLOW_ID": ID}.get(name, OWN)
    told = refused(tmp_path, {name: f"{quote}{value}{quote}"})
    assert "docker run --env-file" in told
    assert f"{name}={'...' if name == 'DIFY_API_KEY' else value}" in told


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("http://me:secret@dify.example.com/v1", "http://dify.example.com/v1"),
        ("https://me@dify.example.com", "https://dify.example.com/v1"),
        ("<https://dify.example.com/v1>", OWN),
        ("https://dify.example.com/v1?x=1", OWN),
        ("https:/dify.example.com/v1", OWN),
        ("dify.example.com", OWN),
        ("me:secret@dify.example.com/v1", OWN),
    ],
)
def test_a_hint_repeats_what_was_given_mended(tmp_path: Path, given: str, meant: str) -> None:
    told = refused(tmp_path, {"DIFY_API_BASE_URL": given})
    assert told.endswith(f"probably meant: DIFY_API_BASE_URL={meant}")
    assert "secret" not in told
    assert "api.dify.ai" not in told


@pytest.mark.parametrize(
    ("environ", "env", "fine"),
    [
        ({}, f"DIFY_API_BASE_URL={OWN}\n", False),
        ({"DIFY_API_BASE_URL": OWN}, "DIFY_API_BASE_URL=http://127.0.0.1:1/v1\n", True),
        ({}, f"DIFY_API_BASE_URL={OWN}\nDIFY_API_KEY={KEY}\n", True),
        ({}, f"DIFY_API_BASE_URL={OWN}\nDIFY_API_KEY=app-another1234567\n", False),
        ({}, "DIFY_API_BASE_URL=https://api.dify.ai/v1/\n", True),
        ({}, "TIMEOUT=5\n", True),
    ],
)
def test_a_key_of_the_environment_goes_to_no_address_out_of_a_file_that_lies_there(
    tmp_path: Path, environ: dict[str, str], env: str, fine: bool
) -> None:
    if fine:
        load(tmp_path, {}, environ, env)
        return
    told = refused(tmp_path, environ, env)
    assert "--env-file .env" in told
    assert load(tmp_path, {"env_file": str(tmp_path / ".env")}, environ, env)[0].base_url == OWN
    assert load(tmp_path, {"demo": True}, environ, env)[0].demo


@pytest.mark.parametrize(
    ("values", "name", "found"),
    [
        ({"delimiter": "semicolon"}, "delimiter", ";"),
        ({"delimiter": "pipe"}, "delimiter", "|"),
        ({"delimiter": "tab"}, "delimiter", "\t"),
        ({"delimiter": ";"}, "delimiter", ";"),
        ({"timeout": "5"}, "timeout", 5.0),
        ({"rate": "6/m"}, "rate", 0.1),
        ({"max_outage": "15m"}, "max_outage", 900.0),
        ({"concurrency": "auto"}, "concurrency", "auto"),
        ({"id_column": " key "}, "id_column", "key"),
        ({"encoding": " cp932"}, "encoding", "cp932"),
    ],
)
def test_words_mean_the_same_from_python(values: dict[str, Any], name: str, found: Any) -> None:
    assert getattr(Settings(input="a", output=Path("b"), api_key=Secret(KEY), **values), name) == found


@pytest.mark.parametrize("values", [{"delimiter": ";;"}, {"encoding": "utf-99"}, {"mode": "x"}, {"rate": "fast"}])
def test_wrong_words_are_refused_from_python_alike(values: dict[str, Any]) -> None:
    (name,) = values
    with pytest.raises(UsageError, match=name):
        Settings(input="a", output=Path("b"), api_key=Secret(KEY), **values)


@pytest.mark.parametrize("suffix", ["", ".journal", ".retry", ".paused", ".lock", ".superseded"])
def test_the_log_is_no_file_of_the_output(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(UsageError):
        Settings(input="a", output=tmp_path / "o.jsonl", log_file=tmp_path / f"o.jsonl{suffix}", api_key=Secret(KEY))


@pytest.mark.skipif(os.name != "posix", reason="named pipes are those of POSIX")
def test_a_log_file_that_would_wait_for_a_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    with pytest.raises(UsageError, match="is a pipe"):
        Settings(input="a", output=Path("b"), log_file=tmp_path / "log", api_key=Secret(KEY))


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


# ------------------------------------------------------------ certificates


def test_certificates_that_are_not_to_be_had_are_named(tmp_path: Path) -> None:
    none, empty = tmp_path / "none.pem", tmp_path / "empty.pem"
    empty.write_text("nothing of the kind\n")
    for environ, what in (
        ({"SSL_CERT_FILE": str(none)}, "No such file or directory"),
        ({"SSL_CERT_FILE": str(empty)}, "holds no certificates"),
        ({"SSL_CERT_DIR": str(tmp_path / "nowhere")}, "no such folder"),
    ):
        with pytest.raises(UsageError, match=what) as caught:
            check_certificates("https://dify.example.com/v1", environ)
        ((name, path),) = environ.items()
        assert caught.value.message.startswith(f'{name}: "{path}"')
        check_certificates("http://dify.example.com/v1", environ)
    check_certificates("https://dify.example.com/v1", {})
    check_certificates("https://dify.example.com/v1", {"SSL_CERT_FILE": "", "SSL_CERT_DIR": str(tmp_path)})
