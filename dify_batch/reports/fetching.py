"""One file from its link onto the disk: tried again while that may help, gone on with where it broke off."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import re
from pathlib import Path
from urllib.parse import parse_qs, urljoin, urlsplit, urlunsplit

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt

from dify_batch import backoff
from dify_batch._version import __version__
from dify_batch.dify import http
from dify_batch.dify.answers import retry_after
from dify_batch.dify.bodies import read_head
from dify_batch.dify.failures import Broken
from dify_batch.dify.transport import Transport, drop, pieces
from dify_batch.dify.word import word_of
from dify_batch.ledger.disk import Disk
from dify_batch.ledger.place import Kind, kind_of
from dify_batch.masking import reason
from dify_batch.reports.attached import Attached, is_signed
from dify_batch.seams import Clock
from dify_batch.text import duration

TRIES = 4
CONNECT, SILENCE = 10.0, 60.0
"""Seconds: to reach a host, and without a byte."""

REDIRECTS = 5
MOST = 1 << 30
"""Bytes of a file whose size nobody told."""

_PASSES = frozenset({408, 425, 429})
_LATE = 300.0
"""Seconds that Dify's links are good for, unless FILES_ACCESS_TIMEOUT says otherwise."""

_NONE = "0"  # the tag of what cannot be gone on with


class NotFetched(Exception):
    """A file cannot be had. `again`: it may be, a little later; `retry_after`: seconds that the server asks for."""

    def __init__(self, reason: str, *, again: bool = False, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.again = again
        self.retry_after = retry_after


class Fetcher:
    """Fetches files. No key, no cookie, no user of a URL goes with a request.

    `server`: host, port and path of Dify, for links without a host: a server that does not know its own address
    (FILES_URL is empty) gives such.
    """

    def __init__(self, server: str, waits: backoff.Backoff, clock: Clock) -> None:
        self._server = server.partition("/")[0]
        self._waits = waits
        self._clock = clock
        self._disk = Disk()
        self._transports: dict[str, Transport] = {}

    async def aclose(self) -> None:
        for transport in self._transports.values():
            await transport.aclose()

    async def fetch(self, file: Attached, path: Path) -> int:
        """Puts the file at `path`, whose folder is there. Gives its bytes.

        Raises NotFetched; OSError where it cannot be written.
        """
        repeating = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, NotFetched) and error.again),
            stop=stop_after_attempt(TRIES),
            wait=self._waits,
            sleep=backoff.pause,
            reraise=True,
        )
        size: int = await repeating(self._try, file, path)
        return size

    async def _try(self, file: Attached, path: Path) -> int:
        urls = self._urls(file.url)
        for number, url in enumerate(urls, 1):
            try:
                return await self._from(file, url, path)
            except _NoConnection:
                if number == len(urls):
                    raise
        raise AssertionError("a file has one address at least")

    def _urls(self, url: str) -> list[str]:
        """Where a link may lead: one without a host to Dify, by either scheme, as the journal does not tell which."""
        if not url.startswith("/") or url.startswith("//"):
            return [url]
        if not self._server:
            raise NotFetched("its link names no host, and the journal no server")
        schemes = ("http", "https") if _is_local(self._server) else ("https", "http")
        return [f"{scheme}://{self._server}{url}" for scheme in schemes]

    async def _from(self, file: Attached, url: str, path: Path) -> int:
        part = self._left(path)
        have = 0 if part is None else part.stat().st_size
        response = await self._ask(url, have)
        try:
            tag, status = _tag(response, file), response.status_code
            fits = status == 206 and response.headers.get("content-range", "").startswith(f"bytes {have}-")
            if part is not None and status in (200, 206, 416) and not (fits and part == _part(path, tag)):
                self._disk.remove(part)
            if (status == 206 and not (fits and (have == 0 or part == _part(path, tag)))) or (status == 416 and have):
                raise NotFetched("the server gives another part of it than was asked for", again=True)
            if not response.is_success:
                raise await self._refused(response, url)
            if file.size is None and _is_page(response, file):
                raise NotFetched("a page came in place of the file: is it behind a login?")
            return await self._write(response, file, path, _part(path, tag), goes_on=status == 206)
        finally:
            await drop(response)

    def _left(self, path: Path) -> Path | None:
        """What an earlier try has left that can be gone on with; what cannot is removed."""
        found = None
        for part in path.parent.glob(f".{_escaped(path.name)}.*.part"):
            if part.name.removesuffix(".part").endswith(f".{_NONE}") or kind_of(part, follow=False) is not Kind.FILE:
                self._disk.remove(part)
            else:
                found = part
        return found

    async def _write(self, response: http.Response, file: Attached, path: Path, part: Path, *, goes_on: bool) -> int:
        whole = file.size if file.size is not None else _told(response)
        most = MOST if whole is None else whole
        fd = self._disk.open_append(part)
        try:
            if not goes_on:
                self._disk.truncate(fd, 0)
            size = self._disk.size(fd)
            try:
                async for piece in pieces(response):
                    size += len(piece)
                    if size > most:
                        break
                    self._disk.write(fd, piece)
            except Exception as error:
                if isinstance(error, OSError):  # of the disk: those of the network are httpx's
                    raise
                raise NotFetched(f"it broke off: {Broken(error)}", again=True) from error
            if whole is None and size > most:
                raise NotFetched(f"it has more than {MOST >> 30} GB")
            if whole is not None and size != whole:
                told = f"more than the {whole:,}" if size > whole else f"{size:,} of the {whole:,}"
                raise NotFetched(f"{told} bytes came that were told", again=size < whole)
            self._disk.sync(fd)
        except NotFetched as error:
            if not error.again or part == _part(path, _NONE):
                self._disk.remove(part)
            raise
        finally:
            self._disk.close(fd)
        self._disk.rename(part, path)
        return size

    # --- asking --------------------------------------------------------------------------------------------------

    async def _ask(self, url: str, have: int) -> http.Response:
        """The answer, after redirects. `have`: bytes that are here already."""
        for _ in range(REDIRECTS + 1):
            url = _checked(url)
            response = await self._send(url, have)
            target = response.headers.get("location")
            if response.status_code not in (301, 302, 303, 307, 308) or not target:
                return response
            await drop(response)
            url = urljoin(url, target)
        raise NotFetched(f"more than {REDIRECTS} redirects")

    async def _send(self, url: str, have: int) -> http.Response:
        headers = {"User-Agent": f"dify-batch/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        limits = {"timeout": {"connect": CONNECT, "pool": CONNECT, "read": SILENCE}}
        try:
            request = http.Request("GET", url, headers=headers, extensions=limits)
        except Exception as error:
            raise NotFetched("its link is no address") from error
        origin = f"{request.url.scheme}://{request.url.netloc.decode('ascii')}"
        transport = self._transports.get(origin)
        if transport is None:
            transport = self._transports[origin] = Transport(origin)
        try:
            return await transport.handle_async_request(request)
        except Exception as error:
            broken = Broken(error)
            kind = _NoConnection if broken.meaning == "unreachable" else NotFetched
            raise kind(reason(str(broken)), again=not broken.distrusted) from error

    async def _refused(self, response: http.Response, url: str) -> NotFetched:
        status = response.status_code
        try:
            async with asyncio.timeout(SILENCE):
                body = await read_head(pieces(response))
        except Exception:  # noqa: BLE001 - a refusal is one by its status
            body = b""
        said = word_of(status, response.headers, body)
        text = reason(f"HTTP {status}: {said.shown}" if said.dify else said.shown)
        late = _age(url, self._clock.wall())
        if status in (401, 403, 404, 410) and late is not None and late > _LATE:
            text = f"its link has expired, {duration(late)} after it was made ({text})"
        again = status in _PASSES or status >= 500
        return NotFetched(text, again=again, retry_after=retry_after(response.headers, self._clock.wall()))


class _NoConnection(NotFetched):
    """Nothing was sent."""


# ---------------------------------------------------------------- what a link and an answer say


def _checked(url: str) -> str:
    """The URL without a user and a password in it. Raises NotFetched for what is no http or https."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise NotFetched("its link is no address") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise NotFetched("its link is neither http nor https")
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))


def _is_local(server: str) -> bool:
    host = server.rpartition(":")[0] if re.search(r":\d+$", server) else server
    try:
        return ipaddress.ip_address(host.strip("[]")).is_private
    except ValueError:
        return host == "localhost" or "." not in host


def _age(url: str, now: float) -> float | None:
    """How many seconds ago Dify signed the link."""
    stamp = parse_qs(urlsplit(url).query).get("timestamp", [""])[0] if is_signed(url) else ""
    return now - int(stamp) if stamp.isdecimal() and len(stamp) < 12 else None


def _told(response: http.Response) -> int | None:
    """Bytes of the whole, by the answer's headers."""
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        return None
    text = response.headers.get("content-range", "").rpartition("/")[2]
    text = text or ("" if response.status_code == 206 else response.headers.get("content-length", ""))
    return int(text) if text.isdecimal() and len(text) < 16 else None


def _tag(response: http.Response, file: Attached) -> str:
    """What tells this content of the link from another, as a word for a file's name; "0" where nothing does."""
    strong = response.headers.get("etag", "")
    strong = "" if strong.startswith("W/") else strong
    whole = _told(response)
    if not strong or whole is None:
        return _NONE
    return hashlib.blake2b(f"{file.source}\n{strong}\n{whole}".encode(), digest_size=8).hexdigest()


def _is_page(response: http.Response, file: Attached) -> bool:
    page = response.headers.get("content-type", "").partition(";")[0].strip().lower() == "text/html"
    return page and file.media != "text/html" and not file.name.lower().endswith((".html", ".htm"))


def _part(path: Path, tag: str) -> Path:
    return path.with_name(f".{path.name}.{tag}.part")


def _escaped(name: str) -> str:
    return re.sub(r"([\[*?])", r"[\1]", name)
