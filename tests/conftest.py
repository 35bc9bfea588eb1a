"""What holds for every test."""

import os

# The keyring is chosen once a process, by whoever asks first. Tests must never meet that of the person who runs them,
# nor one that another test has made up.
os.environ["PYTHON_KEYRING_BACKEND"] = "keyring.backends.fail.Keyring"
