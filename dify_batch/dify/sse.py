"""Server-sent events, from bytes to parsed JSON. Pure.

Dify sends one event as one line `data: {json}` and an empty line, and a ping as `event: ping` without data
[dify-wire section 2]. Most events of a run (text_chunk, node_started, node_finished, ...) are of no use to a batch,
and they are most of the bytes: they are told apart by their first key and neither decoded nor parsed. httpx-sse, the
library for this, decodes every line; with each event's JSON parsed after it, a run of 550 events cost 2.5 times as
much CPU. It also has no bound on an event's size.
"""

from __future__ import annotations

import re
from typing import Any

from dify_batch.strictjson import json_object

NEEDED = frozenset(
    {
        b"workflow_started",
        b"workflow_finished",
        b"workflow_paused",
        b"human_input_required",
        b"error",
    }
)
"""Events that decide something. Others are passed over once the run's id is known, but for those that bear a price or
tell which node failed."""

_TELLING = frozenset({b"node_finished", b"iteration_completed", b"loop_completed"})
_WANTED = NEEDED | _TELLING | {b"node_retry"}
_TAIL = 8192  # bytes at an event's end; what comes after its outputs is shorter, but for many files
_METADATA = b'"execution_metadata"'


def _tells(data: bytes) -> bool:
    """Whether an event of _TELLING bears a price or a failure: `..., "outputs": ..., "status", "error", "elapsed_time",
    "execution_metadata", "created_at", ...`. Found from its end, so that outputs of megabytes are not searched."""
    at = data.rfind(_METADATA, max(0, len(data) - _TAIL))
    if at < 0:
        return b'"total_price"' in data or b'"failed"' in data
    if not data[at + len(_METADATA) :].lstrip(b" :").startswith(b"null") and data.find(b'"total_price"', at) >= 0:
        return True
    status = data.rfind(b'"status"', 0, at)
    return status >= 0 and b'"failed"' in data[status : status + 32]


MAX_EVENT = 64 << 20
"""Bytes of one event: three times the largest input that Dify was seen to take [22h], so that a server that never
ends an event cannot fill the memory."""

# An empty line. Lines may end in LF, CRLF or CR alone; JSON has none of them, so most streams never show a CR.
_END = re.compile(rb"\n\r?\n")
_ANY_END = re.compile(rb"(?:\n|\r(?!\n))(?:\r\n|\n|\r)")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_NAME = re.compile(rb'\s*\{\s*"event"\s*:\s*"([^"\\]*)"')


class TooLarge(ValueError):
    """An answer or event without end; the text says what, for people."""


class EventStream:
    """Takes the bytes of one stream as they come and gives its events.

    Any cutting of the bytes into chunks gives the same events; a byte is looked at a bounded number of times, however
    large its event. `pings` counts the pings, `malformed` the events whose data was not a JSON object.

    every: gives all events, also those that decide nothing once the run's id is known.
    """

    __slots__ = ("_any_end", "_buffer", "_every", "_known", "_scanned", "_skips", "malformed", "pings")

    def __init__(self, *, every: bool = False) -> None:
        self._every = every
        self._skips = False
        self._buffer = bytearray()
        self._scanned = 0
        self._known = False
        self._any_end = False
        self.pings: int = 0
        self.malformed: int = 0

    def feed(self, chunk: bytes) -> list[dict[str, Any]]:
        """The needed events that end within `chunk`, in order.

        Raises:
            TooLarge: an event is larger than MAX_EVENT.
        """
        data: bytes | bytearray = chunk
        if self._buffer:
            self._buffer += chunk
            data = self._buffer
        events: list[dict[str, Any]] = []
        start, scan = 0, self._scanned
        if not self._any_end and b"\r" in chunk:
            self._any_end = True
        pattern = _ANY_END if self._any_end else _END
        while (end := pattern.search(data, scan)) is not None:
            event = self._event(bytes(data[start : end.start()]))
            if event is not None:
                events.append(event)
            start = scan = end.end()
        if data is chunk:
            self._buffer += chunk[start:]
        elif start:
            del self._buffer[:start]
        if len(self._buffer) > MAX_EVENT:
            self._buffer.clear()
            raise TooLarge(f"an event of more than {MAX_EVENT >> 20} MB")
        self._scanned = max(0, len(self._buffer) - 2)  # an end may be cut: "\n\r" now, "\n" in the next chunk
        return events

    def finish(self) -> list[dict[str, Any]]:
        """The event that the stream broke off in, if its JSON had arrived whole: only the empty line was missing."""
        rest, malformed = bytes(self._buffer), self.malformed
        self._buffer.clear()
        self._scanned = 0
        event = self._event(rest)
        self.malformed = malformed  # a broken end is no malformed event
        return [] if event is None else [event]

    def _event(self, block: bytes) -> dict[str, Any] | None:
        plain = block.startswith(b"data:") and b"\n" not in block
        data = block[5:] if plain and not (self._any_end and b"\r" in block) else self._data(block)
        if not data:
            return None
        if (
            self._skips
            and (name := _NAME.match(data)) is not None
            and ((kind := name[1]) not in _WANTED or (kind in _TELLING and not _tells(data)))
        ):
            return None
        event = json_object(data)
        if event is None:
            self.malformed += 1
            return None
        # Until the run's id is known any event may bear it: a stream that is joined late has no workflow_started.
        if not self._known and (event.get("workflow_run_id") or event.get("event") == "workflow_started"):
            self._known, self._skips = True, not self._every
        return event

    def _data(self, block: bytes) -> bytes:
        lines = []
        for line in _LINE_END.split(block):
            line = line.removeprefix(b"\xef\xbb\xbf")
            if line.startswith(b"data:"):
                lines.append(line[6:] if line.startswith(b"data: ") else line[5:])
            elif line.startswith(b"event:") and line[6:].strip() == b"ping":
                self.pings += 1
        return b"\n".join(lines)
