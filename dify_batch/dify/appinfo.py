"""What the service API tells of an app beside its runs: its page, its tools, its users, its files. Shapes only.

Facts come from recorded exchanges of a Dify 1.14.2 server; the numbers in brackets name them. `end_user` and
`file_preview` were read in Dify's source, and not seen.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

from dify_batch.dify import http
from dify_batch.dify.answers import error_of
from dify_batch.dify.exchanges import Exchanges
from dify_batch.dify.failures import Broken
from dify_batch.dify.requests import Reply
from dify_batch.dify.transport import drop, pieces, whole_body
from dify_batch.errors import ConnectionFailed


class AppInfo(Exchanges):
    """Each method is one request; they raise as `Endpoints` says."""

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
        request = self._request("GET", http.URL(url + ("?as_attachment=true" if as_attachment else "")))
        response: Reply | None = None
        try:
            response = await self._send(request)
            if not response.is_success:
                body = await whole_body(response)
                raise error_of(response.status_code, response.headers, body, "GET", url, now=self._clock.wall())
            async for piece in pieces(response):
                yield piece
        except (Broken, http.TransportError) as error:
            told = error if isinstance(error, Broken) else Broken(error)
            raise ConnectionFailed(f"GET {url}: {told}", method="GET", url=url) from error
        finally:
            if response is not None:
                await drop(response)
