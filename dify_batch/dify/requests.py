"""A request and its answer as they pass between a client and the built-in transport, for each row: without httpx's
objects, which copy and check the headers of both. A transport that a caller hands in gets httpx's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from dify_batch.dify import http


@dataclass(slots=True)
class Asked:
    """A request. `content`: the whole body. `timeout`: seconds, by what they bound, as httpx has them."""

    method: str
    url: str
    headers: list[tuple[str, str]]
    content: bytes
    timeout: Mapping[str, float]

    def as_httpx(self) -> http.Request:
        stream = http.ByteStream(self.content)  # a ready one, as httpx would otherwise add headers of its own
        return http.Request(
            self.method, self.url, headers=self.headers, stream=stream, extensions={"timeout": dict(self.timeout)}
        )


class Answered:
    """An answer whose body is still to come. `names`: its headers. `raw`: the same as bytes, which a refusal's are read
    from with more care: a gateway may have written them in any encoding."""

    __slots__ = ("_names", "_raw", "status_code", "stream")

    def __init__(
        self,
        status_code: int,
        names: Mapping[str, str],
        raw: Sequence[tuple[bytes, bytes]],
        stream: http.AsyncByteStream,
    ) -> None:
        self.status_code: int = status_code
        self.stream: http.AsyncByteStream = stream
        self._names = names
        self._raw = raw

    @property
    def is_success(self) -> bool:
        return 200 <= self.status_code < 300

    @property
    def headers(self) -> Mapping[str, str]:
        return self._names if self.is_success else http.Headers(self._raw)


Reply: TypeAlias = Answered | http.Response
