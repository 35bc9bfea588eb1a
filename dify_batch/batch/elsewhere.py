"""Whether a copy of an output was gone on with elsewhere: then this journal does not know what has run since.

The name of a batch, which stands in the `user` of its requests, holds a part that all invocations on one output share.
So the server's log tells invocations of this output that this journal has never heard of. Two copies that are begun in
the same moment do not see each other.
"""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta

from dify_batch.dify.client import DifyClient
from dify_batch.engine.slots import PREFIX
from dify_batch.errors import DifyBatchError, UsageError
from dify_batch.ids import Shard
from dify_batch.ledger import formats
from dify_batch.ledger.identity import Identity
from dify_batch.ledger.state import State
from dify_batch.seams import Seams
from dify_batch.text import count

_TAG = 6  # hexadecimal digits: of a thousand outputs on one app hardly two have the same
_RANDOM = 3  # bytes that tell two invocations of the same second
_RANDOM_OF_PART = 8  # of parts hundreds may begin in one second, and none looks at the journals of the others
_PAGES = 3  # of a hundred runs: what another copy did last is among the newest
_MARGIN = timedelta(hours=1)  # by which this clock may differ from the server's
_PATIENCE = 15.0  # seconds: a slow log is no reason to wait for long


def new_batch_name(identity: Identity, seams: Seams, shard: Shard | None = None) -> str:
    """Short, and unique among all batches of an app: it is part of the `user` that runs are found by."""
    size = _RANDOM if shard is None else _RANDOM_OF_PART
    return f"{int(seams.clock.wall()):08x}{_tag(identity)}{seams.chance.token(size)}{_part(shard)}"


def _part(shard: Shard | None) -> str:
    return "" if shard is None else f"s{shard.name}"


def _tag(identity: Identity) -> str:
    return identity.salt[:_TAG].lower() if re.fullmatch(rf"[0-9a-fA-F]{{{_TAG},}}", identity.salt) else ""


async def require_whole_journal(client: object, state: State, identity: Identity, shard: Shard | None = None) -> None:
    """Asks the log for invocations of this output that its journal does not know. A log that is not to be had, or
    slow, says nothing.

    Raises:
        UsageError: there are some; nothing was sent.
    """
    tag = _tag(identity)
    if not isinstance(client, DifyClient):
        return  # the account surface has no log of an app's users
    if not tag or not any(one.salt == identity.salt for one in state.before):
        return
    # Of parts the same one alone: their tags are many, and two of a set may be alike.
    digits = 2 * (_RANDOM if shard is None else _RANDOM_OF_PART)
    name = re.compile(rf"{re.escape(PREFIX)}([0-9a-f]{{8}}{tag}[0-9a-f]{{{digits}}}{_part(shard)})-\d+")
    try:
        since = datetime.fromtimestamp(formats.from_utc((state.last_batch or {}).get("at", "")), UTC) - _MARGIN
    except (ValueError, OverflowError, OSError):
        return
    runs: dict[str, int] = {}
    try:
        async with asyncio.timeout(_PATIENCE):
            for page in range(1, _PAGES + 1):
                found = await client.logs(after=since, page=page)
                for entry in found.entries:
                    match = name.fullmatch(entry.user or "")
                    if match and match[1] not in state.batches:
                        runs[match[1]] = runs.get(match[1], 0) + 1
                if not found.has_more:
                    break
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
