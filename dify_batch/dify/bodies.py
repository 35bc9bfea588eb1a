"""Bodies of answers: unpacked as they come, and read whole up to a bound. No network of its own.

httpx unpacks without a bound: a megabyte of gzip became 2 GB, and the event loop stood still for ten seconds.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator

from dify_batch.dify.sse import MAX_EVENT, TooLarge

PIECE = 1 << 18
"""Bytes that are unpacked at a time; between two of them other rows have their turn."""

REFUSAL = 1 << 20
"""Bytes that are read of an answer that is no result: Dify's refusals have some hundred, and may quote an input."""

_ZLIB_OR_GZIP = 32 + zlib.MAX_WBITS
_BARE = -zlib.MAX_WBITS


class Unreadable(Exception):
    """The bytes of an answer are not what its headers say; the text says it for people."""


class Unpacked:
    """The bytes of a packed body, in pieces of at most PIECE bytes.

    `coding`: Content-Encoding as the answer has it. Raises Unreadable.
    """

    def __init__(self, packed: AsyncIterator[bytes], coding: str) -> None:
        self._packed = packed
        self._coding = coding
        self._decoder: zlib._Decompress | None = None
        self._rest = b""
        if coding not in ("gzip", "x-gzip", "deflate"):
            raise Unreadable("the answer is packed in a way that was not asked for")

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while True:
            if not self._rest:
                try:
                    self._rest = await anext(self._packed)
                except StopAsyncIteration:
                    if self._decoder is not None and not self._decoder.eof:
                        raise Unreadable("the answer broke off before its end") from None
                    raise
            piece = self._unpack()
            if piece:
                return piece

    def _unpack(self) -> bytes:
        try:
            if self._decoder is None or self._decoder.eof:  # another member of gzip may follow the first
                self._decoder = zlib.decompressobj(self._kind(self._rest))
            piece = self._decoder.decompress(self._rest, PIECE)
        except zlib.error:
            raise Unreadable(f"the answer says {self._coding} and is not") from None
        self._rest = self._decoder.unused_data if self._decoder.eof else self._decoder.unconsumed_tail
        return piece

    def _kind(self, first: bytes) -> int:
        # "deflate" means zlib by the standard; some servers send it without zlib's two bytes in front.
        bare = self._coding == "deflate" and (first[0] & 0x0F) != 8
        return _BARE if bare else _ZLIB_OR_GZIP


async def read_whole(pieces: AsyncIterator[bytes], first: bytes = b"", limit: int = MAX_EVENT) -> bytes:
    """All bytes, with those that were read already. Raises TooLarge past the limit."""
    found = [first]
    size = len(first)
    async for piece in pieces:
        found.append(piece)
        size += len(piece)
        if size > limit:
            raise TooLarge(f"an answer of more than {limit >> 20} MB")
    return b"".join(found)


async def read_head(pieces: AsyncIterator[bytes], limit: int = REFUSAL) -> bytes:
    """The first bytes, up to a limit."""
    found = bytearray()
    async for piece in pieces:
        found += piece
        if len(found) >= limit:
            break
    return bytes(found[:limit])


class Chained:
    """What was read already, then the rest."""

    def __init__(self, head: bytes, rest: AsyncIterator[bytes]) -> None:
        self._head = head
        self._rest = rest

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._head:
            head, self._head = self._head, b""
            return head
        return await anext(self._rest)


_BEGINNINGS = (b"data:", b"event:")
_BOM = b"\xef\xbb\xbf"


async def begins_stream(pieces: AsyncIterator[bytes]) -> tuple[bool, AsyncIterator[bytes]]:
    """Whether a body is an event stream by its first bytes, and the body to be read on."""
    head = begin = b""
    async for piece in pieces:
        head += piece
        begin = head.removeprefix(_BOM).lstrip(b"\r\n")
        undecided = any(word.startswith(begin) for word in _BEGINNINGS) or _BOM.startswith(head)
        if not undecided or begin in _BEGINNINGS:
            break
    return begin.startswith(_BEGINNINGS), Chained(head, pieces)
