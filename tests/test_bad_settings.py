"""A wrong setting, and the exact words in which it is refused. Nothing of the key or of a password shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dify_batch.cli.arguments import parse
from dify_batch.errors import Exit, UsageError
from dify_batch.settings import Secret, Settings, load_settings, read_base_url

KEY = "app-Ab12Cd34Ef56Gh78Ij90Kl12"
CALL = ["-i", "data.csv", "-o", "results.jsonl"]
ID = "3b1f0d4e-7c2a-4e57-9f0b-2d6c8a1e5f90"


def refused(tmp_path: Path, flags: list[str], environ: dict[str, str], raw: bytes | None = None) -> UsageError:
    """The error of a call with `flags`, in a folder whose .env holds `raw`."""
    if raw is not None:
        (tmp_path / ".env").write_bytes(raw)
    with pytest.raises(UsageError) as caught:
        load_settings(parse([*CALL, *flags]), {"DIFY_API_KEY": KEY, **environ}, tmp_path)
    error = caught.value
    assert error.exit_status == Exit.USAGE
    assert KEY not in str(error.as_dict())
    assert "pw" not in str(error.as_dict())
    return error


# A flag, a variable or the whole of .env; its value; the message.
BAD = [
    ("--wait", "-1", '--wait: "-1" is not a number of seconds, 0 or more, such as 2.5'),
    ("--wait", "nan", '--wait: "nan" is not a number of seconds, 0 or more, such as 2.5'),
    ("DIFY_BATCH_WAIT", "2s", 'DIFY_BATCH_WAIT: "2s" is not a number of seconds, 0 or more, such as 2.5'),
    ("--concurrency", "0", '--concurrency: "0" is not a whole number from 1 to 4096, or auto'),
    (".env", "DIFY_BATCH_CONCURRENCY=many",
     'DIFY_BATCH_CONCURRENCY in .env: "many" is not a whole number from 1 to 4096, or auto'),
    ("--rate", "5", '--rate: "5" is not a rate above 0, such as 5/s, 120/m or 1000/h'),
    ("--mode", "stream", '--mode: "stream" is not one of auto, streaming, blocking'),
    ("--timeout", "0", '--timeout: "0" is not a number of seconds above 0, such as 300'),
    ("TIMEOUT", "5m", 'TIMEOUT: "5m" is not a number of seconds above 0, such as 300'),
    ("MAX_RETRIES", "-1", 'MAX_RETRIES: "-1" is not a whole number, 0 or more, such as 3'),
    ("INITIAL_RETRY_DELAY", "90", "MAX_RETRY_DELAY (60 s) is less than INITIAL_RETRY_DELAY (90 s)"),
    ("--retry-policy", "none", '--retry-policy: "none" is not one of strict, safe, all'),
    ("--stuck-after", "soon",
     '--stuck-after: "soon" is not a duration above 0, such as 90, 90s, 15m, 1h30m or 2d, or auto'),
    ("--max-failures", "200%",
     '--max-failures: "200%" is not a number of rows, 1 or more, such as 10, or a percentage up to '
     '100%, such as 5%'),
    ("--limit", "0", '--limit: "0" is not a whole number, 1 or more, such as 100'),
    ("--encoding", "utf-9",
     '--encoding: "utf-9" is not an encoding of text files known here, such as utf-8, utf-16, cp1252, '
     "shift_jis or gb18030"),
    ("--delimiter", ";;",
     '--delimiter: ";;" is not one character other than a quote, such as ";" or "|", or tab, comma, '
     "semicolon or pipe"),
    ("--user", "crm-{customer", '--user: "crm-{customer" has a brace without its partner'),
    ("--log-format", "xml", '--log-format: "xml" is not one of text, json'),
    ("--output", "-",
     "--output: results go to a file, since the next invocation goes on from it; - is not possible"),
    ("--output", "data.csv", '--output and --input are the same file: "data.csv"'),
    ("--log-file", "results.jsonl", '--output and --log-file are the same file: "results.jsonl"'),
    ("--input", "",
     "-i/--input is missing: the table with one row for each run; - reads standard input"),
    ("DIFY_API_KEY", "app-xxxxxxxx", "DIFY_API_KEY is still a placeholder, not a key"),
    ("DIFY_API_KEY", "your-api-key", "DIFY_API_KEY is still a placeholder, not a key"),
    ("DIFY_API_KEY", "<your key>", "DIFY_API_KEY is still a placeholder, not a key"),
    ("DIFY_API_KEY", "app-...", "DIFY_API_KEY is still a placeholder, not a key"),
    ("DIFY_API_KEY", f'{KEY}\n', "DIFY_API_KEY contains a line break. (Its value is not shown.)"),
    ("DIFY_API_KEY", f"{KEY} x", "DIFY_API_KEY contains a blank. (Its value is not shown.)"),
    ("DIFY_API_KEY", f'"{KEY}', "DIFY_API_KEY contains a quote. (Its value is not shown.)"),
    ("DIFY_API_KEY", f"{KEY}é",
     "DIFY_API_KEY contains a character that no key has (not ASCII). (Its value is not shown.)"),
    ("DIFY_API_KEY", f"Bearer {KEY}",
     'DIFY_API_KEY begins with "Bearer", which does not belong to it. (Its value is not shown.)'),
    ("DIFY_API_KEY", "dfoa_abcdef",
     "DIFY_API_KEY is an account token, which /v1 does not accept; an app's key begins with app-. "
     "(Its value is not shown.)"),
    ("DIFY_API_KEY", "dataset-abc",
     "DIFY_API_KEY is a key of a knowledge base; a workflow app's begins with app-. (Its value is "
     "not shown.)"),
    ("DIFY_WORKFLOW_ID", KEY, "DIFY_WORKFLOW_ID holds an API key. (Its value is not shown.)"),
    ("DIFY_WORKFLOW_ID", "your-workflow-id", 'DIFY_WORKFLOW_ID: "your-workflow-id" is still a placeholder'),
    ("DIFY_WORKFLOW_ID", "7", f'DIFY_WORKFLOW_ID: "7" is not a UUID such as {ID}'),
    ("DIFY_API_BASE_URL", "api.dify.ai/v1",
     'DIFY_API_BASE_URL: "api.dify.ai/v1" has no scheme (http:// or https://)'),
    ("DIFY_API_BASE_URL", "https:/api.dify.ai/v1",
     'DIFY_API_BASE_URL: "https:/api.dify.ai/v1" is not a URL: after http or https comes ://'),
    ("DIFY_API_BASE_URL", "ftp://host/v1",
     'DIFY_API_BASE_URL: "ftp://host/v1" begins with "ftp://"; only http:// and https:// are possible'),
    ("DIFY_API_BASE_URL", "http://host:port/v1",
     'DIFY_API_BASE_URL: "http://host:port/v1" has a host or port that cannot be read'),
    ("DIFY_API_BASE_URL", "http:///v1", 'DIFY_API_BASE_URL: "http:///v1" has no host'),
    ("DIFY_API_BASE_URL", "http://me:pw@host/v1?a=1",
     'DIFY_API_BASE_URL: "http://***@host/v1?a=1" has a query or fragment (? or #), which a base URL '
     'cannot have'),
    ("DIFY_API_BASE_URL", "https://api.dify.ai/v1/v1",
     'DIFY_API_BASE_URL: "https://api.dify.ai/v1/v1" ends in /v1 twice'),
    ("DIFY_API_BASE_URL", "https://api.dify.ai/v1/workflows/run",
     'DIFY_API_BASE_URL: "https://api.dify.ai/v1/workflows/run" is the address of one call, not the '
     'base of all'),
    ("DIFY_API_BASE_URL", f'https://cloud.dify.ai/app/{ID}/workflow',
     f'DIFY_API_BASE_URL: "https://cloud.dify.ai/app/{ID}/workflow" is a page of Dify, not its API'),
    ("DIFY_API_BASE_URL", "http://dify.local/app/1/develop",
     'DIFY_API_BASE_URL: "http://dify.local/app/1/develop" is a page of Dify\'s console, not its API'),
    ("DIFY_API_BASE_URL", "http://dify.local/openapi/v1",
     'DIFY_API_BASE_URL: "http://dify.local/openapi/v1" is the account API, which takes no app key'),
    ("DIFY_API_BASE_URL", "'http://host/v1",
     'DIFY_API_BASE_URL: "\'http://host/v1" contains a blank, a quote or a bracket'),
]  # fmt: skip


@pytest.mark.parametrize(("where", "value", "message"), BAD, ids=[f"{case[0]}-{case[2][:60]}" for case in BAD])
def test_bad_settings(tmp_path: Path, where: str, value: str, message: str) -> None:
    flags = [f"{where}={value}"] if where.startswith("--") else []
    raw = value.encode() if where == ".env" else None
    environ = {} if flags or raw else {where: value}
    error = refused(tmp_path, flags, environ, raw)
    assert error.message == message
    assert error.hint


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        (b"TIMEOUT=5\nthis is no TIMEOUT\n", 2),
        (b"\n\n" + KEY.encode() + b"\n", 3),
        (b"TIMEOUT=5\nDIFY_BATCH_USER='open\nX=1\n", 2),
        (b"A=1\nB=\xff\n", 2),
        (b"\xff\xfeT\0", 1),
        (b"A=1\nB=\0\n", 2),
    ],
)
def test_bad_settings_files(tmp_path: Path, raw: bytes, line: int) -> None:
    error = refused(tmp_path, [], {}, raw)
    what = "not UTF-8 text" if b"\xff" in raw else "not NAME=value"
    assert error.message == f"{tmp_path / '.env'}, line {line}: {what}"


def test_a_settings_file_that_is_not_there(tmp_path: Path) -> None:
    error = refused(tmp_path, ["--env-file", str(tmp_path / "no.env")], {})
    expected = f'the settings file "{tmp_path / "no.env"}" cannot be read: No such file or directory'
    assert error.message == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--retry", "--overwrite"],
            "--retry and --overwrite contradict each other: one goes on, the other starts over",
        ),
        (["-qv"], "-q and -v contradict each other"),
        (
            ["--max-cost", "1", "--mode", "blocking"],
            "--max-cost and --mode blocking contradict each other: a blocking answer tells no price",
        ),
        (
            ["--id-column", "a", "--files-column", "a"],
            '--id-column and --files-column are the same column: "a"',
        ),
    ],
)
def test_flags_that_contradict_each_other(tmp_path: Path, flags: list[str], message: str) -> None:
    error = refused(tmp_path, flags, {})
    assert (error.message, error.code) == (message, "usage_invalid_flag")


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("api.dify.ai/v1", "https://api.dify.ai/v1"),
        ("localhost:8080", "http://localhost:8080/v1"),
        ("192.168.1.5/v1/", "http://192.168.1.5/v1"),
        ("dify.example.com", "https://dify.example.com/v1"),
        ("me:pw@dify.example.com/v1", "https://dify.example.com/v1"),
        ("https://api.dify.ai/v1/v1/", "https://api.dify.ai/v1"),
        ("https://h/x/v1/chat-messages", "https://h/x/v1"),
        ("http://h/apps", "http://h/v1"),
        ("https://udify.app/workflow/abc", "https://api.dify.ai/v1"),
    ],
)
def test_what_was_probably_meant(url: str, meant: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_base_url(url)
    assert caught.value.hint == f"probably meant: DIFY_API_BASE_URL={meant}"
    assert "pw" not in str(caught.value.as_dict())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"wait": -1}, "wait: -1 is not a number of at least 0"),
        ({"timeout": 0}, "timeout: 0 is not a number above 0"),
        ({"rate": float("nan")}, "rate: nan is not a number above 0"),
        ({"max_runtime": float("inf")}, "max_runtime: inf is not a number above 0"),
        ({"limit": 0}, "limit: 0 is not a number of at least 1"),
        ({"timeout": None}, "timeout: None is not a number above 0"),
        ({"concurrency": 5000}, "concurrency: 5000 is not a whole number from 1 to 4096, or auto"),
        ({"mode": "fast"}, 'mode: "fast" is not one of auto, streaming, blocking'),
        ({"retry_policy": "x"}, 'retry_policy: "x" is not one of strict, safe, all'),
    ],
)
def test_bad_values_from_python(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Settings(input="a.csv", output=Path("b"), api_key=Secret(KEY), **values)
    assert caught.value.message == message
