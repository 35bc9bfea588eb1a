"""The recipes do what they say: shell scripts run for real, units and workflows name what exists."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dify_batch.cli.arguments import COMMANDS
from dify_batch.errors import Exit
from dify_batch.flags import BY_DEST, BY_NAME
from dify_batch.flagvalues import parse_duration
from dify_batch.simulator import SimulatorProcess
from tests.support import harness

EXAMPLES = Path(__file__).parent.parent / "examples"
LONGEST_RUN: float = BY_DEST["timeout"].default
SHELL = shutil.which("sh") or "sh"
FILES = (
    "crontab",
    "dify-batch.service",
    "github-actions.yml",
    "nightly.sh",
    "parts.sh",
    "slurm-array.sh",
    "kubernetes-job.yml",
    "Dockerfile",
    "README.md",
    "python_api.py",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as cron would find it: the CSV, the script, and a dify-batch on the PATH."""
    harness.write_csv(tmp_path / "data.csv", 6)
    shutil.copy(EXAMPLES / "nightly.sh", tmp_path)
    command = tmp_path / "bin" / "dify-batch"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m dify_batch "$@"\n')
    command.chmod(0o755)
    return tmp_path


def environment(server: SimulatorProcess, folder: Path, **more: str) -> dict[str, str]:
    waits = {"RETRY_AFTER": "0", "AGAIN_AFTER": "0", "TRIES": "3", "HOME": str(folder)}
    path = f"{folder / 'bin'}:/usr/bin:/bin"
    project = str(EXAMPLES.parent)
    return harness.environment(server.base_url, PATH=path, PYTHONPATH=project, **(waits | more))


def shell(folder: Path, env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SHELL, *arguments],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=harness.LIMIT,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def dated(folder: Path) -> Path:
    (found,) = folder.glob("results-*.jsonl")
    assert re.fullmatch(r"results-\d{4}-\d\d-\d\d\.jsonl", found.name)
    return found


# ---------------------------------------------------------------- nightly.sh


def test_nightly_says_nothing_when_all_is_well(server: SimulatorProcess, folder: Path) -> None:
    done = shell(folder, environment(server, folder), "nightly.sh", "data.csv")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(harness.places(dated(folder)).done) == 6
    # The same night again: nothing is sent a second time.
    again = shell(folder, environment(server, folder), "nightly.sh")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert server.state(runs=False)["executions"] == {f"r{number}": 1 for number in range(1, 7)}


def test_nightly_runs_failed_rows_again_and_says_nothing_when_that_helps(
    server: SimulatorProcess, folder: Path
) -> None:
    server.faults({"rows": {"r2": ["failed"], "r5": ["failed"]}})
    done = shell(folder, environment(server, folder), "nightly.sh")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(harness.places(dated(folder)).done) == 6
    executions = server.state(runs=False)["executions"]
    assert {row_id for row_id, count in executions.items() if count == 2} == {"r2", "r5"}


def test_nightly_tells_once_what_still_fails(server: SimulatorProcess, folder: Path) -> None:
    server.faults({"rows": {"r2": ["failed"] * 9}})
    done = shell(folder, environment(server, folder), "nightly.sh")
    assert (done.returncode, done.stdout) == (int(Exit.FAILED), "")
    assert done.stderr.count("error:") == 1
    assert "1 of 6 rows has no result" in done.stderr
    assert f"status {dated(folder).name}" in done.stderr.replace("./", "")
    assert server.state(runs=False)["executions"]["r2"] == 2
    assert harness.places(dated(folder)).retry == {"r2"}


def test_nightly_goes_on_after_75(server: SimulatorProcess, folder: Path) -> None:
    """A command that ends with 75 twice: the third time counts, and nothing of the first two is printed."""
    script = folder / "bin" / "twice"
    script.write_text(
        f"#!/bin/sh\necho x >> {shlex.quote(str(folder / 'calls'))}\n"
        f"[ $(wc -l < {shlex.quote(str(folder / 'calls'))}) -gt 2 ] || {{ echo busy >&2; exit 75; }}\n"
        'exec dify-batch "$@"\n'
    )
    script.chmod(0o755)
    done = shell(folder, environment(server, folder, DIFY_BATCH_COMMAND="twice"), "nightly.sh")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(harness.places(dated(folder)).done) == 6


def test_nightly_gives_up_after_so_many_times_75(server: SimulatorProcess, folder: Path) -> None:
    script = folder / "bin" / "never"
    script.write_text(f"#!/bin/sh\necho x >> {shlex.quote(str(folder / 'calls'))}\necho busy >&2; exit 75\n")
    script.chmod(0o755)
    done = shell(folder, environment(server, folder, DIFY_BATCH_COMMAND="never"), "nightly.sh")
    assert (done.returncode, done.stdout, done.stderr) == (int(Exit.UNFINISHED), "", "busy\n")
    assert (folder / "calls").read_text() == "x\n" * 3


def test_nightly_tells_a_wrong_key(server: SimulatorProcess, folder: Path) -> None:
    env = environment(server, folder) | {"DIFY_API_KEY": "app-nobody"}
    done = shell(folder, env, "nightly.sh")
    assert (done.returncode, done.stdout) == (int(Exit.AUTH), "")
    assert done.stderr.count("error:") == 1
    assert "app-nobody" not in done.stderr


def test_a_signal_to_nightly_lets_the_runs_end(server: SimulatorProcess, folder: Path) -> None:
    server.configure(latency=1.0)
    env = environment(server, folder, DIFY_BATCH_CONCURRENCY="2")
    script = subprocess.Popen(
        [SHELL, "nightly.sh"], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        for _ in range(20_000):
            if server.state(runs=False)["executions"]:
                break
            assert script.poll() is None
        script.send_signal(signal.SIGTERM)
        out, err = script.communicate(timeout=harness.LIMIT)
    finally:
        if script.poll() is None:
            script.kill()
            script.communicate()
    assert (script.returncode, out) == (int(Exit.SIGTERM), "")
    assert "stopped by SIGTERM" in err
    places = harness.places(dated(folder))
    assert (places.running, places.retry) == (frozenset(), frozenset())
    assert set(server.state(runs=False)["executions"]) == places.done
    assert 0 < len(places.done) < 6


# ---------------------------------------------------------------- crontab


def cron_commands() -> dict[str, str]:
    """The commands of the crontab, by what they call."""
    lines = (EXAMPLES / "crontab").read_text(encoding="utf-8").splitlines()
    jobs = [line for line in lines if re.match(r"[\d*]", line)]
    commands = [re.fullmatch(r"(\S+ ){5}(.+)", job) for job in jobs]
    assert all(commands)
    found = {("nightly" if "nightly" in c[2] else "hourly"): c[2] for c in commands if c}
    assert set(found) == {"nightly", "hourly"}
    return found


def in_batch_folder(folder: Path) -> None:
    (folder / "batch").mkdir()
    for name in ("data.csv", "nightly.sh"):
        (folder / name).rename(folder / "batch" / name)


def test_no_percent_sign_ends_a_command_of_the_crontab() -> None:
    assert all("%" not in command for command in cron_commands().values())


def test_the_crontab_runs_nightly(server: SimulatorProcess, folder: Path) -> None:
    in_batch_folder(folder)
    done = shell(folder, environment(server, folder), "-c", cron_commands()["nightly"])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(harness.places(dated(folder / "batch")).done) == 6


def test_the_hourly_line_is_silent_when_all_is_well_and_logs(server: SimulatorProcess, folder: Path) -> None:
    in_batch_folder(folder)
    env = environment(server, folder)
    done = shell(folder, env, "-c", cron_commands()["hourly"])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(harness.places(folder / "batch" / "results.jsonl").done) == 6


def test_the_hourly_line_tells_once_what_failed_and_the_log_names_the_row(
    server: SimulatorProcess, folder: Path
) -> None:
    in_batch_folder(folder)
    server.faults({"rows": {"r3": ["failed"]}})
    done = shell(folder, environment(server, folder), "-c", cron_commands()["hourly"])
    assert (done.stdout + done.stderr).count("error:") == 1
    assert "1 of 6 rows has no result" in done.stdout
    log = [json.loads(line) for line in (folder / "batch" / "dify-batch.log").read_text().splitlines()]
    (failure,) = [line for line in log if line.get("row") == "r3" and line["level"].lower() == "warning"]
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", failure["time"])


def test_the_hourly_line_is_silent_while_another_holds_the_output(server: SimulatorProcess, folder: Path) -> None:
    from dify_batch.ledger.lock import OutputLock

    in_batch_folder(folder)
    lock = OutputLock(folder / "batch" / "results.jsonl.lock")
    lock.acquire()
    try:
        done = shell(folder, environment(server, folder), "-c", cron_commands()["hourly"])
    finally:
        lock.release()
    assert (done.stdout, done.stderr) == ("", "")
    assert server.state(runs=False)["executions"] == {}


# ---------------------------------------------------------------- units, workflow, container


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(EXAMPLES / name, encoding="utf-8")
    return parser


def test_the_service_has_time_to_end_its_runs() -> None:
    service = unit("dify-batch.service")["Service"]
    assert service["KillSignal"] == "SIGTERM"
    assert service["SuccessExitStatus"] == str(int(Exit.UNFINISHED))
    assert service["Type"] == "oneshot"
    assert parse_duration(service["TimeoutStopSec"].replace("min", "m")) > LONGEST_RUN + 60
    program, *arguments = shlex.split(service["ExecStart"])
    assert Path(program).name == "dify-batch"
    assert Path(program).is_absolute()
    assert "-q" in arguments


def test_the_timer_belongs_to_the_service() -> None:
    timer = unit("dify-batch.timer")
    assert timer["Timer"]["Persistent"] == "true"
    assert timer["Timer"]["OnCalendar"]
    assert timer["Install"]["WantedBy"] == "timers.target"
    assert (EXAMPLES / "dify-batch.service").exists()


@pytest.mark.parametrize("name", FILES)
def test_every_flag_in_an_example_exists(name: str) -> None:
    text = (EXAMPLES / name).read_text(encoding="utf-8").replace("\\\n", " ")
    calls = re.findall(r"(?:dify-batch|exec \"\$command\") (-.*?)(?:2>&1|\||$)", text, re.MULTILINE)
    used = [word for call in calls for word in re.findall(r"(?<!\S)--?[a-z][a-z-]*", call.split(">")[0])]
    if name in ("crontab", "dify-batch.service", "github-actions.yml", "nightly.sh"):
        assert used, "this test finds no call"
    elsewhere = {"-f", "-t"}  # of docker, which builds an image of the name dify-batch
    assert [flag for flag in used if flag not in BY_NAME and flag not in elsewhere] == []
    for command in re.findall(r"(?<![\w./-])dify-batch ([a-z]+) \S*\.?(?:results|\"\$RESULTS)", text):
        assert command in COMMANDS


def test_the_workflow_keeps_everything_that_the_next_attempt_needs() -> None:
    text = (EXAMPLES / "github-actions.yml").read_text(encoding="utf-8")
    assert "\t" not in text
    assert re.search(r"^on:\n  schedule:\n    - cron: \"\S+ \S+ \S+ \S+ \S+\"$", text, re.MULTILINE)
    assert "cancel-in-progress: false" in text
    assert "results-*.jsonl*" in text  # the journal, .retry and .paused too
    assert re.search(r"upload-artifact@v\d+\n        if: always\(\)", text)
    limits = [parse_duration(found) for found in re.findall(r"--max-runtime (\d\w*)", text)]
    minutes = re.search(r"timeout-minutes: (\d+)", text)
    assert minutes
    assert len(limits) == 2
    assert sum(limits) + 2 * LONGEST_RUN + 600 < 60 * int(minutes[1]) <= 6 * 3600


def test_the_workflow_runs_its_batch_step(server: SimulatorProcess, folder: Path) -> None:
    text = (EXAMPLES / "github-actions.yml").read_text(encoding="utf-8")
    step = re.search(r"        run: \|\n((?:          .*\n)+?)      - name: Say", text)
    assert step
    script = re.sub(r"^ {10}", "", step[1], flags=re.MULTILINE).replace("sleep 600", "sleep 0")
    server.faults({"rows": {"r3": ["failed"]}})
    env = environment(server, folder, RESULTS="results-1.jsonl")
    done = shell(folder, env, "-e", "-c", script)
    assert (done.returncode, done.stdout) == (0, "")
    assert len(harness.places(folder / "results-1.jsonl").done) == 6


def test_signals_reach_the_command_in_the_container() -> None:
    lines = (EXAMPLES / "Dockerfile").read_text(encoding="utf-8").splitlines()
    (entry,) = [line.removeprefix("ENTRYPOINT ") for line in lines if line.startswith("ENTRYPOINT")]
    assert json.loads(entry) == ["dify-batch"]
    assert "STOPSIGNAL SIGTERM" in lines
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    assert all((EXAMPLES.parent / word).exists() for word in copied)


def test_the_index_names_every_example() -> None:
    index = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    names = {path.name for path in EXAMPLES.iterdir() if path.is_file()} - {"README.md"}
    assert {name for name in names if f"`{name}`" not in index} == set()
    assert os.access(EXAMPLES / "nightly.sh", os.X_OK)


# ---------------------------------------------------------------- python_api.py


def python_api(server: SimulatorProcess, folder: Path, *arguments: str, key: str = "app-echo") -> harness.Ran:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "python_api.py"), *arguments],
        cwd=folder,
        env=environment(server, folder) | {"DIFY_API_KEY": key},
        capture_output=True,
        text=True,
        timeout=harness.LIMIT,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    return harness.Ran(done.returncode, done.stdout, done.stderr)


def test_a_batch_from_python(server: SimulatorProcess, folder: Path) -> None:
    server.faults({"rows": {"r3": ["failed"]}})
    done = python_api(server, folder, "batch", "data.csv", "results.jsonl")
    assert (done.status, done.out) == (0, "6 of 6 rows have a result\n"), done.err
    assert len(harness.places(folder / "results.jsonl").done) == 6


def test_one_run_from_python(server: SimulatorProcess, folder: Path) -> None:
    done = python_api(server, folder, "ask", "hello")
    assert done.status == 0, done.err
    assert "hello" in done.out


def test_an_error_from_python(server: SimulatorProcess, folder: Path) -> None:
    done = python_api(server, folder, "batch", "data.csv", "results.jsonl", key="app-nobody")
    assert (done.status, done.out) == (int(Exit.AUTH), "")
    assert "Traceback" not in done.err


# ---------------------------------------------------------------- parts


def test_all_parts_on_one_machine(server: SimulatorProcess, folder: Path) -> None:
    shutil.copy(EXAMPLES / "parts.sh", folder)
    done = shell(folder, environment(server, folder), "parts.sh", "data.csv", "results.jsonl", "3", "2")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert server.state(runs=False)["executions"] == {f"r{number}": 1 for number in range(1, 7)}
    assert {path.name for path in folder.glob("results.*.jsonl")} <= {f"results.{n}of3.jsonl" for n in (1, 2, 3)}
    again = shell(folder, environment(server, folder), "parts.sh", "data.csv", "results.jsonl", "3", "2")
    assert again.returncode == 0
    assert max(server.state(runs=False)["executions"].values()) == 1


def test_the_slurm_array_has_as_many_jobs_as_parts(server: SimulatorProcess, folder: Path) -> None:
    text = (EXAMPLES / "slurm-array.sh").read_text(encoding="utf-8")
    of = re.search(r"^#SBATCH --array=1-(\d+)$", text, re.MULTILINE)
    assert of is not None
    assert f'"$SLURM_ARRAY_TASK_ID/{of[1]}"' in text
    shutil.copy(EXAMPLES / "slurm-array.sh", folder)
    done = shell(folder, environment(server, folder, SLURM_ARRAY_TASK_ID="16"), "slurm-array.sh")
    assert (done.returncode, done.stderr) == (0, "")
    assert (folder / "results.16of16.jsonl.journal").exists()


def test_the_kubernetes_job_runs_each_part_once(server: SimulatorProcess, folder: Path) -> None:
    job = yaml.safe_load((EXAMPLES / "kubernetes-job.yml").read_text(encoding="utf-8"))
    spec = job["spec"]
    assert (job["apiVersion"], job["kind"], spec["completionMode"]) == ("batch/v1", "Job", "Indexed")
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never", "podFailurePolicy asks for it"
    assert pod["terminationGracePeriodSeconds"] > LONGEST_RUN
    refused = spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"]
    assert refused == sorted(int(each) for each in (Exit.FAILED, Exit.USAGE, Exit.AUTH))
    (container,) = pod["containers"]
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    assert f'/{spec["completions"]}"' in container["args"][0]
    last = str(spec["completions"] - 1)  # the index begins at 0
    done = shell(folder, environment(server, folder, JOB_COMPLETION_INDEX=last), "-c", *container["args"])
    assert (done.returncode, done.stderr) == (0, "")
    assert (folder / "results.16of16.jsonl.journal").exists()
