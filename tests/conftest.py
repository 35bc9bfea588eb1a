"""What holds for every test."""

import os

# The keyring is chosen once a process, by whoever asks first. Tests must never meet that of the person who runs them,
# nor one that another test has made up.
os.environ["PYTHON_KEYRING_BACKEND"] = "keyring.backends.fail.Keyring"


# On Windows a process cannot be told to end in order, files have no modes and there is no shell for the examples: what
# is promised there, and what not, stands in the README.
if os.name == "nt":
    collect_ignore_glob = ["faults/*", "browser/*", "test_examples.py", "test_agents.py", "ledger/test_modes.py"]
