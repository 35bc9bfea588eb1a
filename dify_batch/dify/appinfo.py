"""What the service API tells of an app beside its runs: its page, its tools, its users, its files. Shapes only.

Facts come from recorded exchanges of a Dify 1.14.2 server; the numbers in brackets name them. `end_user` and
`file_preview` were read in Dify's source, and not seen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote

import httpx

from dify_batch.dify.answers import error_of
from dify_batch.dify.transport import Broken, drop, pieces, whole_body
from dify_batch.errors import ConnectionFailed
from dify_batch.seams import Clock


class AppInfo(ABC):
    """Each method is one request; they raise as `Endpoints` says."""

    base_url: str
    _clock: Clock

    @abstractmethod
    async def _json(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The JSON object that a request is answered with."""

    @abstractmethod
    def _request(
        self, method: str, url: httpx.URL, content: bytes | None = None, *, streaming: bool = False
    ) -> httpx.Request:
        """A request with the key and the headers of all."""

    @abstractmethod
    async def _send(self, request: httpx.Request) -> httpx.Response:
        """Sends it; raises Broken."""

    async def site(self) -> dict[str, Any]:
        """GET /site: title, icon, description, default_language, … of the app's web page [19]."""
        return await self._json("GET", "/site")

    async def meta(self) -> dict[str, Any]:
        """GET /meta: `tool_icons` of the tools that the app uses [19]."""
        return await self._json("GET", "/meta")

    async def end_user(self, end_user_id: str) -> dict[str, Any]:
        """GET /end-users/{id}: the user that Dify made of a `user` text: id, session_id, created_at, …."""
        return await self._json("GET", f"/end-users/{quote(end_user_id, safe='')}")

    async def file_preview(self, file_id: str, *, as_attachment: bool = False) -> AsyncIterator[bytes]:
        """GET /files/{id}/preview: the content of an uploaded file, in pieces as they come.

        async for piece in client.file_preview(upload_id):
            file.write(piece)
        """
        url = f"{self.base_url}/files/{quote(file_id, safe='')}/preview"
        request = self._request("GET", httpx.URL(url + ("?as_attachment=true" if as_attachment else "")))
        response: httpx.Response | None = None
        try:
            response = await self._send(request)
            if not response.is_success:
                body = await whole_body(response)
                raise error_of(response.status_code, response.headers, body, "GET", url, now=self._clock.wall())
            async for piece in pieces(response):
                yield piece
        except (Broken, httpx.TransportError) as error:
            told = error if isinstance(error, Broken) else Broken(error)
            raise ConnectionFailed(f"GET {url}: {told}", method="GET", url=url) from error
        finally:
            if response is not None:
                await drop(response)
