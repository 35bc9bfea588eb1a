"""What the engine needs of whatever executes rows: one small protocol for every surface and every kind of app.

`DifyClient` is one for the workflow apps of the service API, `KindClient` for its apps that talk. Another surface comes
as a client of its own with these methods; pool, course and books do not know which they serve. What a surface cannot
tell, it says by raising AppError from `logs`: a lost request is then unknown, and never sent again by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from dify_batch.dify.answers import Detail, Ended, LogPage
from dify_batch.outcomes import Outcome, RunRef


class Surface(Protocol):
    """A run is named by a RunRef: its `run_id` is what `run_detail` understands, whatever the surface calls it (a chat
    has messages)."""

    @property
    def clock_offset(self) -> float:
        """Seconds by which the server's clock is ahead of ours; 0.0 until known."""

    @property
    def server_time_known(self) -> bool:
        """Whether an answer has told the server's time."""

    async def run(
        self,
        inputs: Mapping[str, Any],
        *,
        user: str,
        mode: Literal["streaming", "blocking"],
        files: Sequence[Mapping[str, Any]] | None = None,
        timeout: float,
        on_started: Callable[[RunRef], None] | None = None,
        trace_id: str | None = None,
    ) -> Outcome:
        """One attempt: one POST, and what it came to. Raises nothing for what a network or a server does. `trace_id`:
        what the run is to be found by in tools that trace models, where the surface passes it on."""

    async def follow(self, ref: RunRef, *, user: str, timeout: float) -> Outcome:
        """Attaches to the run's events, if there are any: Succeeded, Failed, Paused, Running or Unreachable."""

    async def run_detail(self, ref: RunRef, *, user: str | None = None) -> Detail:
        """What the server holds of one run; `outcome` None where it does not know it. `user`: who it was sent as, where
        that is known; a chat is told to its own user only."""

    async def logs(
        self,
        *,
        user: str | None = None,
        after: datetime | None = None,
        before: datetime | None = None,
        page: int = 1,
        limit: int = 100,
        status: Ended | None = None,
    ) -> LogPage:
        """The runs of the app, newest first, running ones too; those of one `user`, if given. A surface that cannot
        list the runs of everybody gives an empty page without a `user`. `status`: only runs that ended so; asked only
        of a surface whose pages have a `total`.

        Raises AppError where nothing can be found at all; ConnectionFailed, ServerError, RateLimited.
        """

    async def stop(self, task_id: str, *, user: str) -> None:
        """Stops a run. Raises the errors of `errors.py`."""

    async def send_file(self, path: str | Path, *, user: str, mime: str) -> str | Outcome:
        """Uploads one file for runs of the same `user`; gives its id, or what it means for the row that there is none.
        Raises nothing for what a network, a server or a disk does."""

    async def probe(self) -> str | None:
        """None when the server answers something harmless, else why not."""
