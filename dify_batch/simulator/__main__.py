"""`python -m dify_batch.simulator`: prints one line of JSON when ready, serves until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from .config import SHAPES, Config
from .faults import OF_A_RUN, OF_AN_UPLOAD, OF_THE_SERVER
from .kinds import DEMO_KEYS
from .plan import parse_plan
from .served.core import SimulatorCore

EXAMPLE = '{"rows": {"r2": ["failed"]}}'
WHOLE = {
    "port", "control_port", "workers", "worker_processes", "prefetch", "connections", "api_processes",
    "max_active_requests",
    "account_rate", "external_sso", "licensed",
}  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    """One flag for each field of Config, and --faults."""
    names = ", ".join(sorted(OF_A_RUN | OF_AN_UPLOAD | OF_THE_SERVER))
    parser = argparse.ArgumentParser(
        prog="python -m dify_batch.simulator", description="A Dify 1.14 on loopback.", epilog=f"Faults: {names}."
    )
    for field in fields(Config):
        default = None if field.default is MISSING else field.default
        if field.name == "api_shape":
            parser.add_argument("--api-shape", choices=SHAPES, default=default, help="of the account surface")
            continue
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=whole_number if field.name in WHOLE else number,
            default=default,
            metavar="N" if field.name in WHOLE else "S",
            help=f"default {'none' if default is None else default}",
        )
    parser.add_argument(
        "--docker", action="store_true", help="the shape of a server of default size, where not set here"
    )
    parser.add_argument(
        "--app-kind", choices=DEMO_KEYS, default="workflow", help="whose key is told: default workflow; all are served"
    )
    parser.add_argument(
        "--faults",
        metavar="FILE|JSON",
        help=f"a fault plan, as POST /faults takes it, such as '{EXAMPLE}': row r2 fails once, then succeeds",
    )
    return parser


def shape_of_docker(values: dict[str, Any]) -> dict[str, Any]:
    """The settings of `Config.docker`, where `values` has no other than the default."""
    real, plain = Config.docker(), Config()
    return {
        name: getattr(real if value == getattr(plain, name) else Config(**values), name)
        for name, value in values.items()
    }


def number(text: str) -> float | None:
    """A flag's value; `none` is None."""
    return None if text == "none" else float(text)


def whole_number(text: str) -> int | None:
    """A flag's value; `none` is None."""
    return None if text == "none" else int(text)


def read_plan(text: str | None) -> dict[str, object]:
    """The plan given as JSON or as the path of a file of it. Raises ValueError or OSError."""
    if text is None:
        return {}
    plan = json.loads(text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8"))
    if not isinstance(plan, dict):
        raise ValueError(f"--faults: an object is needed, got {type(plan).__name__}")
    parse_plan(plan)
    return plan


async def serve(config: Config, plan: dict[str, object], key: str) -> None:
    """Serves until a signal comes."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(signum, ended.set)
        except NotImplementedError:  # Windows
            signal.signal(signum, lambda *_: loop.call_soon_threadsafe(ended.set))
    core = SimulatorCore(config)
    await core.open()
    await core.set_faults(plan)
    line = {"base_url": core.base_url, "control_url": core.control_url, "api_key": key, "pid": os.getpid()}
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
    await ended.wait()
    await core.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 2 for a bad flag, plan or port."""
    parser = build_parser()
    values = vars(parser.parse_args(argv))
    key, faults = DEMO_KEYS[values.pop("app_kind")], values.pop("faults")
    if values.pop("docker"):
        values = shape_of_docker(values)
    try:
        plan = read_plan(faults)
        asyncio.run(serve(Config(**values), plan, key))
    except (ValueError, OSError) as e:
        sys.stderr.write(f"simulator: {e}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
