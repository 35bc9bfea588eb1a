"""What Dify does stands apart from how it is served: no I/O, no thread, no clock of its own, nothing global."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dify_batch.simulator
from dify_batch.simulator import Config, Means, Site, site_server
from tests.support.fake_network import FakeTransport
from tests.support.owned_time import CountingChance, LoopClock

FOLDER = Path(dify_batch.simulator.__file__).parent
INNER = sorted(path.name for path in FOLDER.glob("*.py") if path.name not in ("__init__.py", "__main__.py"))
FORBIDDEN = {
    "aiohttp", "concurrent", "httpx", "multiprocessing", "os", "secrets", "socket", "subprocess", "sys", "threading",
    "time",
}  # fmt: skip


def imported(source: str) -> set[str]:
    """The modules that a source imports, by their first name; own ones with a dot."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("name", INNER)
def test_the_inner_layer_asks_nobody_for_anything(name: str) -> None:
    source = (FOLDER / name).read_text(encoding="utf-8")
    assert imported(source) & FORBIDDEN == set()
    assert ".served" not in imported(source)
    for word in ("uuid4", "random.random", "random.choice", "random.uniform", "datetime.now", "date.today"):
        assert word not in source


def test_it_needs_nothing_but_what_every_installation_has() -> None:
    code = (
        "import sys; sys.modules.update(starlette=None, uvicorn=None, httptools=None)\n"
        "from dify_batch.simulator import Simulator\nwith Simulator() as sim: print(sim.base_url)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("http://127.0.0.1:")


class StandingClock(LoopClock):
    """A wall clock that stands still."""

    def wall(self) -> float:
        return 1_000_000.0


async def test_it_is_served_in_any_loop_without_a_network() -> None:
    """A protocol and a transport that somebody made up are enough; time and ids are the caller's."""
    site = Site(Config(latency=0, clock_skew=-10.0), Means(StandingClock(), CountingChance()))
    transport = FakeTransport(site_server(site)())
    answer = await transport.request("POST", "/v1/workflows/run", {"inputs": {"query": "x", "id": "a"}, "user": "u"})
    assert b"HTTP/1.1 200 OK" in answer
    assert b"Date: Mon, 12 Jan 1970 13:46:30 GMT" in answer
    assert b'"created_at": 999990' in answer
    assert b'"task_id": "00000000-0000-4000-a000-000000000003"' in answer
    ended = site.ledger.of("a")[0]
    assert (ended.user, ended.mode, ended.status, ended.outputs) == (
        "u",
        "blocking",
        "succeeded",
        '{"answer": "Echo: x"}',
    )
    assert ended.inputs == '{"query": "x", "id": "a"}'
    site.crash("api")
    assert transport.aborted
    site.close()
