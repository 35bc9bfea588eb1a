"""What holds for every test."""

import os
from collections.abc import Iterator

import pytest

# The keyring is chosen once a process, by whoever asks first. Tests must never meet that of the person who runs them,
# nor one that another test has made up.
os.environ["PYTHON_KEYRING_BACKEND"] = "keyring.backends.fail.Keyring"


# On Windows a process cannot be told to end in order, files have no modes and there is no shell for the examples: what
# is promised there, and what not, stands in the README.
if os.name == "nt":
    collect_ignore_glob = ["faults/*", "browser/*", "test_examples.py", "test_agents.py", "ledger/test_modes.py"]

from dify_batch.simulator import Config, SimulatorProcess


@pytest.fixture(scope="module")
def process() -> Iterator[SimulatorProcess]:
    """A simulated Dify in a process of its own, for the tests of a module that run the command."""
    with SimulatorProcess(Config(latency=0.02)) as simulator:
        yield simulator


@pytest.fixture
def server(process: SimulatorProcess) -> SimulatorProcess:
    """The same, as new."""
    process.reset()
    process.configure(latency=0.02)
    return process
