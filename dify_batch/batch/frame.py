"""What one invocation works with, from its begin to its end."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from dify_batch.batch.control import Control
from dify_batch.batch.placed import Placed
from dify_batch.batch.share import Share
from dify_batch.batch.surface import AppClient, Target
from dify_batch.engine.expecting import Expectation
from dify_batch.input.rows import RowSource
from dify_batch.ledger.disk import Disk
from dify_batch.ledger.formats import Paths
from dify_batch.seams import Seams
from dify_batch.settings import Settings
from dify_batch.summary import Notice, Stats

log: logging.Logger = logging.getLogger("dify_batch")


@dataclass(slots=True)
class Frame:
    """`target`: the app and its server, asked as its kind is once that is known; `share`: what of the whole batch's
    figures is this process's; `source`: the open input; `paths`: the files of the output. `expectation`: of --expect.
    `placed`: what a coordinator says, if there is one."""

    target: Target
    share: Share
    control: Control
    stats: Stats
    source: RowSource
    paths: Paths
    seams: Seams
    disk: Disk
    expectation: Expectation | None = None
    placed: Placed | None = None

    @property
    def settings(self) -> Settings:
        return self.target.settings

    @property
    def client(self) -> AppClient:
        return self.target.client

    def warn(self, *found: Notice) -> None:
        """Logs warnings, and keeps them for the summary."""
        for notice in found:
            self.stats.notices.append(notice)
            log.warning("%s", notice.message)
