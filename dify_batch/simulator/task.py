"""What the API hands on to whoever executes a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .apps import App
from .channel import Channel
from .faults import NORMAL, Fault
from .inputs import FileResolver
from .runs import Ending, Run
from .wire import Answer


@dataclass(slots=True)
class Task:
    """One accepted POST. channel: its stream, None if no one will listen."""

    app: App
    user: str
    row: str
    mode: str
    inputs: dict[str, Any]
    files: FileResolver
    fault: Fault = NORMAL
    channel: Channel | None = None
    account: dict[str, Any] | None = None  # who posts it, where that is an account
    owner: str = ""  # the end user's id
    mute: bool = False  # a refusal is not told: nothing follows the ping (dify-wire 31l-a2)
    refused: bool = False  # by what a worker checks besides the inputs
    on_begin: Callable[[Run], None] | None = None
    on_end: Callable[[Run, Ending], None] | None = None  # at its end or pause, where the database is there to store it
    reply: Callable[[Run, Ending], Answer] | None = None  # the blocking answer, in place of a workflow's
    system: dict[str, Any] = field(default_factory=dict)  # inputs beside the form's: a chatflow's message
