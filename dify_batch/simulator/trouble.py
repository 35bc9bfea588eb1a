"""Answers that go wrong on their way: cut, doubled, endless, packed to burst. For any request."""

from __future__ import annotations

import asyncio

from . import answers, wire
from .exchange import Connection
from .faults import Fault
from .oddities import ENDLESS_PART, gzip_bomb, twice
from .site import Site
from .wire import Answer

_ENDLESS_JSON = b'{"data":{"outputs":{"text":"'


async def endless(connection: Connection, begin: bytes) -> None:
    """Goes on for as long as the client reads."""
    await connection.write(begin)
    while not connection.closed:
        await connection.write(ENDLESS_PART)
        await asyncio.sleep(0)


async def odd_answer(connection: Connection, name: str, answer: Answer) -> Answer | None:
    """The answer as that fault has it; as it is for every other fault."""
    match name:
        case "cut_answer":
            await connection.close()
            return None
        case "cut_mid_stream" | "cut_in_answer":
            length = ("Content-Length", str(len(answer.body)))
            await connection.start(answer.status, (*answer.head(), length))
            await connection.write(answer.body[: len(answer.body) // 2])
            await connection.close()
            return None
        case "doubled":
            await connection.raw(twice(answer))
            return None
        case "endless":
            await connection.start(200, Answer(200, b"").head())
            await endless(connection, _ENDLESS_JSON)
            return None
        case "gzip_bomb":
            return gzip_bomb()
    return answer


async def before(site: Site, met: Fault, connection: Connection) -> tuple[bool, Answer | None]:
    """(whether the request has had its answer, that answer): what it meets before anybody handles it."""
    match met.name:
        case "hang":
            await connection.until_closed()
            return True, None
        case "cut":
            await connection.close()
            return True, None
        case "outage_500":
            return True, wire.UNKNOWN_500
        case "redis_down" | "slow":
            await asyncio.sleep(met.seconds or 0.0)
        case "throttle_429":
            return True, answers.throttled("this app", site.config.max_active_requests or 1, met.seconds)
    return False, None
