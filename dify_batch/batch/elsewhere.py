"""Whether a copy of an output was gone on with elsewhere, or is now: then this journal does not know what runs.

The name of a batch, which stands in the `user` of its requests, holds a part that all invocations on one output share.
So the server's log tells invocations of this output that this journal has never heard of. It is asked before anything
is sent; two copies that are begun in the same moment do not see each other then, so it is asked again while rows run.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta

from dify_batch.dify.client import DifyClient
from dify_batch.engine.slots import PREFIX
from dify_batch.errors import BatchStopped, DifyBatchError, UsageError
from dify_batch.ids import Shard
from dify_batch.ledger import formats
from dify_batch.ledger.identity import Identity
from dify_batch.ledger.state import State
from dify_batch.seams import Clock, Seams
from dify_batch.text import count

_TAG = 6  # hexadecimal digits: of a thousand outputs on one app hardly two have the same
_RANDOM = 3  # bytes that tell two invocations of the same second
_RANDOM_OF_PART = 8  # of parts hundreds may begin in one second, and none looks at the journals of the others
_PAGES = 3  # of a hundred runs: what another copy did last is among the newest
_MARGIN = timedelta(hours=1)  # by which this clock may differ from the server's
_PATIENCE = 15.0  # seconds: a slow log is no reason to wait for long
# While rows run it is looked first and at most so often, seconds: one more request a minute.
_FIRST_LOOK, _LAST_LOOK = 5.0, 60.0
_SLACK = timedelta(minutes=1)  # whoever ran before that was seen at the beginning
_PATIENCE_AT_END = 3.0


def new_batch_name(identity: Identity, seams: Seams, shard: Shard | None = None) -> str:
    """Short, and unique among all batches of an app: it is part of the `user` that runs are found by."""
    size = _RANDOM if shard is None else _RANDOM_OF_PART
    return f"{int(seams.clock.wall()):08x}{_tag(identity)}{seams.chance.token(size)}{_part(shard)}"


def _part(shard: Shard | None) -> str:
    return "" if shard is None else f"s{shard.name}"


def _tag(identity: Identity) -> str:
    return identity.salt[:_TAG].lower() if re.fullmatch(rf"[0-9a-fA-F]{{{_TAG},}}", identity.salt) else ""


def _names(identity: Identity, shard: Shard | None) -> re.Pattern[str] | None:
    """The users of this output's invocations, with their names; None where they cannot be told."""
    tag = _tag(identity)
    if not tag:
        return None
    # Of parts the same one alone: their tags are many, and two of a set may be alike.
    digits = 2 * (_RANDOM if shard is None else _RANDOM_OF_PART)
    return re.compile(rf"{re.escape(PREFIX)}([0-9a-f]{{8}}{tag}[0-9a-f]{{{digits}}}{_part(shard)})-\d+")


async def _unknown_runs(
    client: DifyClient, names: re.Pattern[str], known: Collection[str], since: datetime, pages: int
) -> dict[str, int]:
    """How many runs each invocation has had lately that is not `known`. Raises DifyBatchError."""
    runs: dict[str, int] = {}
    for page in range(1, pages + 1):
        found = await client.logs(after=since, page=page)
        for entry in found.entries:
            match = names.fullmatch(entry.user or "")
            if match and match[1] not in known:
                runs[match[1]] = runs.get(match[1], 0) + 1
        if not found.has_more:
            break
    return runs


async def require_whole_journal(client: object, state: State, identity: Identity, shard: Shard | None = None) -> None:
    """Asks the log for invocations of this output that its journal does not know. A log that is not to be had, or
    slow, says nothing.

    Raises:
        UsageError: there are some; nothing was sent.
    """
    names = _names(identity, shard)
    if not isinstance(client, DifyClient):
        return  # the account surface has no log of an app's users
    if names is None or not any(one.salt == identity.salt for one in state.before):
        return
    try:
        since = datetime.fromtimestamp(formats.from_utc((state.last_batch or {}).get("at", "")), UTC) - _MARGIN
    except (ValueError, OverflowError, OSError):
        return
    try:
        async with asyncio.timeout(_PATIENCE):
            runs = await _unknown_runs(client, names, state.batches, since, _PAGES)
    except (DifyBatchError, TimeoutError):
        return
    if runs:
        batches = count(len(runs), "invocation", "invocations")
        raise UsageError(
            f"{batches} of this output, with {count(sum(runs.values()), 'run')}, stand in the server's log and not in "
            "its journal: a copy of it was gone on with elsewhere; nothing was sent",
            hint="go on with the newest copy of its files; or add --allow-other-app to go on with this one, which may "
            "run rows again that the other has done",
            code="other_app",
            batches=sorted(runs),
        )


class Lookout:
    """Looks now and then, while this batch runs, whether a copy of its output runs elsewhere.

    `known`: the names of the invocations that the journal holds, this one's included.
    """

    def __init__(
        self, client: object, identity: Identity, shard: Shard | None, known: Collection[str], clock: Clock
    ) -> None:
        self._client = client if isinstance(client, DifyClient) else None
        self._names = _names(identity, shard)
        self._known = known
        self._began = clock.wall()

    async def watch(self, tell: Callable[[DifyBatchError], None]) -> None:
        """Tells the error once there is a reason to stop; else until it is cancelled."""
        pause = _FIRST_LOOK
        while True:
            await asyncio.sleep(pause)
            if (error := await self.look(_PATIENCE)) is not None:
                tell(error)
                return
            pause = min(pause * 2, _LAST_LOOK)

    async def look(self, patience: float = _PATIENCE_AT_END) -> DifyBatchError | None:
        """One look, of so many seconds at most."""
        if self._client is None or self._names is None:
            return None
        try:
            since = datetime.fromtimestamp(self._began + self._client.clock_offset, UTC) - _SLACK
            async with asyncio.timeout(patience):
                runs = await _unknown_runs(self._client, self._names, self._known, since, pages=1)
        except (DifyBatchError, TimeoutError, ValueError, OverflowError, OSError):
            return None
        if not runs:
            return None
        return BatchStopped(
            f"a copy of this output is run elsewhere at the same time: {count(sum(runs.values()), 'run')} of "
            f"{count(len(runs), 'invocation', 'invocations')} that its journal does not know stand in the server's "
            "log; no more rows are sent",
            hint="rows that both have sent have run twice. Keep one of the copies, and go on with that one alone: "
            "add --allow-other-app once",
            batches=sorted(runs),
        )
