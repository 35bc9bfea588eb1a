"""The simulator as a process, its control port and its command line."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dify_batch.simulator import Config, SimulatorProcess
from dify_batch.simulator.__main__ import EXAMPLE, build_parser, main, read_plan, shape_of_docker
from dify_batch.simulator.served.process import arguments
from tests.support.simhelp import client, eventually, post, stream_until

FAST = Config(latency=0, linger_after_finish=0, workers=None)


@pytest.fixture(scope="module")
def sim() -> Iterator[SimulatorProcess]:
    with SimulatorProcess(FAST, {"rows": {"first": ["error_502"]}}) as process:
        yield process


def test_the_same_methods_over_the_control_port(sim: SimulatorProcess) -> None:
    with client(sim.base_url, sim.api_key) as http:
        assert post(http, id="first").status_code == 502  # the plan it was started with
        sim.faults(rows={"r": ["error_500"]}, all="error_503")
        assert [post(http, id=row).status_code for row in ("r", "r", "s")] == [500, 200, 503]
        sim.faults()
        sim.configure(max_active_requests=1)
        assert post(http, "streaming").status_code == 400
        sim.configure(max_active_requests=None)
        state = sim.state()
        assert (state["posts"]["r"], state["executions"]["r"]) == (2, 1)
        assert state["requests"]["POST workflows/run"] == state["post_total"] == 5
        assert list(state["runs"][0]) == ["id", "task_id", "user", "status", "row", "mode", "created_at"]
        assert "runs" not in sim.state(runs=False)
        sim.reset()
        assert sim.state()["executions"] == {}


def test_control_works_while_the_server_refuses(sim: SimulatorProcess) -> None:
    with client(sim.base_url) as http:
        sim.refuse()
        with pytest.raises(httpx.ConnectError):
            http.get("/info")
        assert sim.state(runs=False)["in_flight"] == 0
        sim.refuse(False)
        assert http.get("/info").status_code == 200


def test_form_over_the_control_port(sim: SimulatorProcess) -> None:
    with client(sim.base_url, "app-human") as http:
        run_id = post(http).json()["workflow_run_id"]
        with pytest.raises(ValueError, match="one of: approve, reject"):
            sim.submit_form(run_id, "shrug")
        sim.submit_form(run_id, comment="fine")
        detail = eventually(lambda: (d := http.get(f"/workflows/run/{run_id}").json())["finished_at"] and d)
        assert detail["outputs"] == {"comment": "fine", "query": "hello"}
    with pytest.raises(ValueError, match="no run nothing"):
        sim.submit_form("nothing")


def test_bad_requests_to_the_control_port(sim: SimulatorProcess) -> None:
    with pytest.raises(ValueError, match="unknown fault 'nonsense'"):
        sim.faults(rows={"a": ["nonsense"]})
    with pytest.raises(ValueError, match="unknown or fixed setting 'port'"):
        sim.configure(port=1)
    with httpx.Client(base_url=sim.control_url, trust_env=False, verify=False) as http:
        assert http.post("/faults", content=b"[1]").status_code == 400
        assert http.post("/faults", content=b"{").status_code == 400
        assert http.get("/faults").status_code == 405
        assert "/reset" in http.post("/nothing").json()["error"]


def test_a_terminated_process_drops_its_connections_and_ends_well() -> None:
    process = SimulatorProcess(Config(latency=30))
    process.start()
    running = process._process
    assert running is not None
    with client(process.base_url) as http, pytest.raises(httpx.TransportError):  # noqa: PT012
        body = {"inputs": {"query": "x"}, "response_mode": "streaming", "user": "u"}
        with http.stream("POST", "/workflows/run", json=body) as response:
            for part in response.iter_text():
                if "workflow_started" in part:
                    running.send_signal(signal.SIGINT)
    assert running.wait(5) == 0
    process.stop()
    process.stop()


def test_a_killed_process_refuses() -> None:
    with SimulatorProcess(FAST) as process:
        with client(process.base_url) as http:
            stream_until(http, "workflow_finished")
        process.kill()
        with client(process.base_url) as http, pytest.raises(httpx.ConnectError):
            http.get("/info")


def test_every_setting_can_be_handed_over() -> None:
    config = Config.docker(latency=1.5, workers=None, connections=3, latency_tail=0.5, keep_alive=9, clock_skew=-8.0)
    values = vars(build_parser().parse_args(arguments(config)))
    assert values.pop("faults") is None
    assert values.pop("app_kind") == "workflow"
    assert values.pop("docker") is False
    assert Config(**values) == config
    assert arguments(Config()) == []
    with pytest.raises(ValueError, match="latency_tail"):
        arguments(Config(latency_tail=lambda row, nth: 0.0))


def test_the_shape_of_docker_and_what_is_set_beside_it() -> None:
    values = vars(build_parser().parse_args(["--docker", "--connections", "20", "--latency", "3"]))
    del values["faults"], values["app_kind"], values["docker"]
    assert Config(**shape_of_docker(values)) == Config.docker(connections=20, latency=3.0)


def test_the_shape_of_docker_beside_a_plan_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--docker", "--latency", "3", "--faults", '{"nothing": 1}']) == 2
    assert capsys.readouterr().err.startswith("simulator: ")


def test_a_process_that_cannot_start_is_an_error(sim: SimulatorProcess, capfd: pytest.CaptureFixture[str]) -> None:
    port = int(sim.base_url.split(":")[2].split("/")[0])
    with pytest.raises(RuntimeError, match="with status 2"):
        SimulatorProcess(Config(port=port)).start()
    assert "take another port" in capfd.readouterr().err


def test_bad_plans_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "plan.json"
    file.write_text(json.dumps({"all": "nonsense"}), encoding="utf-8")
    assert main(["--faults", str(file)]) == 2
    assert main(["--faults", '{"rows": 1}']) == 2
    assert main(["--faults", str(tmp_path / "missing.json")]) == 2
    errors = capsys.readouterr().err
    assert "unknown fault 'nonsense'" in errors
    assert "rows must be an object" in errors
    assert "missing.json" in errors


def test_the_example_of_the_help_is_a_plan() -> None:
    assert EXAMPLE in " ".join(build_parser().format_help().split())
    assert read_plan(EXAMPLE) == {"rows": {"r2": ["failed"]}}
