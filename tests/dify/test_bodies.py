"""Bodies are unpacked as they come, and read to a bound."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import AsyncIterator

import pytest

from dify_batch.dify import bodies
from dify_batch.dify.bodies import PIECE, Unpacked, Unreadable, read_head, read_whole
from dify_batch.dify.sse import TooLarge

TEXT = b"one line of an answer\n" * 50_000


async def cut(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def bare(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize("size", [1, 7, 1000, 10_000_000])
@pytest.mark.parametrize(
    ("coding", "packed"),
    [
        ("gzip", gzip.compress(TEXT)),
        ("x-gzip", gzip.compress(TEXT)),
        ("gzip", gzip.compress(TEXT[:100]) + gzip.compress(TEXT[100:])),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", bare(TEXT)),
    ],
)
async def test_any_cutting_gives_the_same(coding: str, packed: bytes, size: int) -> None:
    pieces = [piece async for piece in Unpacked(cut(packed, size), coding)]
    assert b"".join(pieces) == TEXT
    assert max(map(len, pieces)) <= PIECE


async def test_an_empty_body_is_empty() -> None:
    assert await read_whole(Unpacked(cut(b"", 1), "gzip")) == b""


@pytest.mark.parametrize(
    ("coding", "packed", "words"),
    [
        ("gzip", b"{}", "says gzip and is not"),
        ("deflate", b"\xff\xff\xff", "says deflate and is not"),
        ("gzip", gzip.compress(TEXT)[:-20], "broke off before its end"),
        ("br", b"x", "was not asked for"),
        ("gzip, gzip", b"x", "was not asked for"),
    ],
)
async def test_what_cannot_be_unpacked_is_told(coding: str, packed: bytes, words: str) -> None:
    with pytest.raises(Unreadable, match=words):
        await read_whole(Unpacked(cut(packed, 1000), coding))


async def test_a_small_answer_that_unpacks_without_end_stops_at_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = gzip.compress(bytes(40 << 20))
    assert len(bomb) < 50_000
    read = 0

    async def counted() -> AsyncIterator[bytes]:
        nonlocal read
        async for piece in Unpacked(cut(bomb, 10_000_000), "gzip"):
            read += len(piece)
            yield piece

    with pytest.raises(TooLarge, match="an answer of more than 1 MB"):
        await read_whole(counted(), limit=1 << 20)
    assert read <= (1 << 20) + bodies.PIECE


async def test_of_a_refusal_the_beginning_is_enough() -> None:
    assert await read_head(cut(TEXT, 1000), 5000) == TEXT[:5000]
    assert await read_head(cut(b"short", 2)) == b"short"
