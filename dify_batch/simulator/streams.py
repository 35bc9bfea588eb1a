"""Event streams as they are sent: the order of pings, how long a stream stays open, and how one is cut."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from . import events, wire
from .channel import PING, Channel, Event
from .config import Config
from .exchange import Connection
from .faults import Fault
from .oddities import other_run
from .runs import Run
from .trouble import endless
from .wire import Headers, stream_head

LAST_EVENTS = ("workflow_finished", "workflow_paused")
NO_CACHE = (("Cache-Control", "no-cache"),)  # on the events endpoint only (dify-wire 18d)
SILENT_EVENTS = ("silence", "clean_end", "cut_after_start", "error_event_after_start")
LOSE = {"lost_started": "workflow_started", "lost_finished": "workflow_finished"}
LINE_ENDS = {"sse_cr": b"\r", "sse_crlf": b"\r\n"}
STRANGE_EVENT = b'data: {"event":"agent_dream","task_id":"?","workflow_run_id":"?","data":{"depth":[1,{"x":null}]}}\n\n'


async def send_post_stream(
    connection: Connection,
    config: Config,
    channel: Channel,
    fault: Fault,
    answered: Callable[[], None],
    head: Headers | None = None,
) -> None:
    """The answer to a streaming POST: a ping from the API at once, then whatever the worker publishes.

    answered: called when the client has all that it will get of the outcome.
    """
    if not config.connections:
        connection.when_lost(channel.wake)
    # Else its going is noticed at the next write only, and until then it takes up a connection slot.
    await connection.start(200, odd_head(fault.name, stream_head() if head is None else head))
    await write_as(connection, PING.data, fault)
    if fault.name == "silence_before_start":
        await connection.until_closed()
        return
    nodes = 0
    while True:
        batch = await channel.take(config.hold_after_error)
        if not batch or connection.closed:
            break  # the client has gone, or there was nothing for so long: a clean end (dify-wire section 2)
        sent: list[bytes] = []
        last = ""
        for event in batch:
            if fault.name in LOSE and event.name == LOSE[fault.name]:
                last = event.name
                continue
            if fault.name == "endless" and event.name == "node_started":
                await connection.write(b"".join(sent))
                await endless(connection, b'data: {"event":"text_chunk","data":{"text":"')
                return
            if fault.name == "ids_disagree" and event.name == "workflow_finished":
                told = wire.compact(other_run(json.loads(event.data[len(b"data: ") :])))
                event = Event(event.name, f"data: {told}\n\n".encode())
            if fault.name == "cut_mid_stream" and nodes == 2:
                await connection.write(b"".join(sent) + event.data[: len(event.data) // 2])
                await connection.close()
                return
            nodes += event.name in ("node_started", "node_finished")
            sent.append(_strange(event) if fault.name == "unknown_event" else event.data)
            last = event.name
            if last == "error" or last in LAST_EVENTS:
                break
            if last == "workflow_started" and fault.name in SILENT_EVENTS:
                break
        await write_as(connection, b"".join(sent), fault)
        if last == "workflow_started" and fault.name in SILENT_EVENTS:
            await _fall_silent(connection, config, fault, answered)
            return
        if last == "error":
            answered()
            await _hold(connection, config, config.hold_after_error)
            break
        if last in LAST_EVENTS:
            answered()
            await _hold(connection, config, config.linger_after_finish)
            break
    await connection.end()


async def _fall_silent(connection: Connection, config: Config, fault: Fault, answered: Callable[[], None]) -> None:
    if fault.name == "silence":
        await connection.until_closed()
    elif fault.name == "clean_end":
        await connection.end()
    elif fault.name == "cut_after_start":
        await connection.close()
    else:
        await connection.write(events.error_event("An error occurred while the run was being watched.").data)
        answered()
        await _hold(connection, config, config.hold_after_error)
        await connection.end()


async def _hold(connection: Connection, config: Config, seconds: float) -> None:
    """Keeps the stream open without a byte, for as long as the client is there.

    On a server whose connections are counted, for all that time: it writes nothing, so it does not see the client go.
    """
    if config.connections:
        await asyncio.sleep(seconds)
        return
    try:
        async with asyncio.timeout(seconds):
            await connection.until_closed()
    except TimeoutError:
        pass


async def write_as(connection: Connection, data: bytes, fault: Fault) -> None:
    """Sends a part of a stream in the dialect that the fault names."""
    if fault.name in LINE_ENDS:
        data = data.replace(b"\n", LINE_ENDS[fault.name])
    if fault.name != "split_utf8":
        await connection.write(data)
        return
    for piece in split_characters(data):
        await connection.write(piece)
        await asyncio.sleep(0)


def odd_head(name: str, head: Headers) -> Headers:
    """The head of a stream in the dialect that the fault names."""
    media = {"sse_no_media_type": "", "sse_other_case": "Text/Event-Stream; Charset=UTF-8"}.get(name)
    return head if media is None else tuple((k, media if k == "Content-Type" else v) for k, v in head)


def split_characters(data: bytes) -> list[bytes]:
    """Cuts after the first byte of every multi-byte character."""
    pieces, start = [], 0
    for i, byte in enumerate(data):
        if byte >= 0xC0:
            pieces.append(data[start : i + 1])
            start = i + 1
    pieces.append(data[start:])
    return [piece for piece in pieces if piece]


def _strange(event: Event) -> bytes:
    """The event with fields that no client knows, and an unknown event and a comment before it."""
    if not event.data.startswith(b"data: {"):
        return event.data
    known = b'data: {"brand_new":{"deep":[true]},' + event.data[len(b"data: {") :]
    return b": a comment\n\n" + STRANGE_EVENT + known


async def send_run_events(
    connection: Connection,
    config: Config,
    run: Run,
    *,
    with_snapshot: bool,
    continue_on_pause: bool,
    head: Headers | None = None,
) -> None:
    """GET /v1/workflow/{run id}/events. Here the API itself pings, so a ping proves nothing (dify-wire section 2)."""
    await connection.start(200, stream_head(NO_CACHE) if head is None else head)
    live = run.live
    if run.has_ended() or live is None:
        await connection.write(events.stored_finish(run))
        await connection.end()
        return
    await connection.write(PING.data)
    channel = Channel()
    if not config.connections:
        connection.when_lost(channel.wake)
    deaf = run.mode == "blocking"  # its events are never published (dify-wire 24o)
    if not deaf:
        live.channels.append(channel)
    try:
        if with_snapshot:
            if not deaf:
                live.channels.remove(channel)
            await asyncio.sleep(config.snapshot_delay)
            if run.has_ended():
                await connection.write(_live_finish(run))
                await connection.end()
                return
            if not deaf:
                live.channels.append(channel)
            await connection.write(b"".join(events.snapshot(run)))
            if run.status == "paused" and not continue_on_pause:
                await _hold(connection, config, config.linger_after_finish)
                await connection.end()
                return
        await _relay(connection, config, channel, endless=continue_on_pause and not with_snapshot)
    finally:
        if channel in live.channels:
            live.channels.remove(channel)


def _live_finish(run: Run) -> bytes:
    event = json.loads(events.stored_finish(run)[len(b"data: ") :])
    return events.live_event(run, "workflow_finished", event["data"]).data


async def _relay(connection: Connection, config: Config, channel: Channel, *, endless: bool) -> None:
    while not connection.closed:
        batch = await channel.take(config.ping_interval)
        if not batch:
            await connection.write(PING.data)  # goes nowhere if the client has gone
            continue
        await connection.write(b"".join(event.data for event in batch))
        finished = any(event.name == "workflow_finished" for event in batch)
        if finished and not endless:  # with continue_on_pause and no snapshot it never ends (dify-wire 24d)
            await _hold(connection, config, config.linger_after_finish)
            await connection.end()
            return
