"""Runs the command without what POSIX alone has, as far as that can be had on POSIX.

python -m tests.support.portable [arguments of dify-batch]

No import of a module of POSIX's, no signals in the event loop, and few functions of `os` that Windows lacks: those that
libraries need here stay, as they have other ways there.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import pkgutil
import select
import signal
import sys
from typing import Any, NoReturn

MODULES = ("fcntl", "grp", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty")
LIBRARIES = (
    *("aiohttp", "apprise", "dotenv", "filelock", "httpx", "jinja2", "keyring", "platformdirs", "prometheus_client"),
    *("pyarrow.parquet", "python_calamine", "rich.live", "shtab", "tenacity", "xlsxwriter", "yaml"),
)
OF_OS = (
    *("chown", "fchown", "fdatasync", "fork", "geteuid", "getgid", "getpgid", "getuid", "killpg", "mkfifo"),
    *("openpty", "pathconf", "posix_fallocate", "pread", "preadv", "pwrite", "setsid", "statvfs", "uname"),
    "O_DIRECTORY",
)
OF_SIGNAL = ("SIGHUP", "SIGKILL", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM")


def no_signals(*_: Any) -> NoReturn:
    """What the event loops of Windows say."""
    raise NotImplementedError


def take_away() -> None:
    """From here on it is not to be had in this process."""
    for name in LIBRARIES:
        importlib.import_module(name)
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for owner, names in ((os, OF_OS), (signal, OF_SIGNAL), (select, ("poll", "epoll"))):
        for name in names:
            if hasattr(owner, name):
                delattr(owner, name)
    loop: Any = asyncio.SelectorEventLoop
    loop.add_signal_handler = loop.remove_signal_handler = no_signals


def import_all() -> int:
    """Imports every module of the package; how many they are."""
    import dify_batch

    found = [module.name for module in pkgutil.walk_packages(dify_batch.__path__, "dify_batch.")]
    for name in found:
        importlib.import_module(name)
    return len(found)


if __name__ == "__main__":
    take_away()
    from dify_batch.cli.main import main

    sys.exit(main())
