"""The command as a process, for tests of its channels and exit statuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from dify_batch.errors import EXIT_OF_CODE
from dify_batch.flags import BY_ENV

KEY = "app-Ab12Cd34Ef56Gh78Ij90Kl12"
CALL = ["-i", "data.csv", "-o", "results.jsonl"]
STUB = str(Path(__file__).with_name("stub_engine.py"))


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in BY_ENV and name[:5] != "DIFY_"}
    return {**kept, "DIFY_API_KEY": KEY, "COLUMNS": "100", **more}


def run(
    folder: Path, *arguments: str, stub: str | None = None, env: dict[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own; with `stub` the engine is the stub and does what the word says."""
    command = [sys.executable, STUB, stub] if stub else [sys.executable, "-m", "dify_batch"]
    done = subprocess.run(
        [*command, *arguments],
        cwd=folder,
        env=environment() if env is None else env,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=60,
        check=False,
        **({"capture_output": True} | options),
    )
    for channel in (done.stdout, done.stderr):
        assert KEY not in (channel or "")
        assert "Traceback" not in (channel or "")
        assert "\x1b" not in (channel or "")
    return done


def error_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The error object, once it is certain that the channels are those of a failure with --json."""
    assert done.stdout == ""
    assert done.stderr.endswith("\n")
    assert done.stderr.count("\n") == 1
    envelope = json.loads(done.stderr)
    assert set(envelope) <= {"error", "summary"}
    assert done.returncode == EXIT_OF_CODE[envelope["error"]["code"]]
    return dict(envelope["error"])
