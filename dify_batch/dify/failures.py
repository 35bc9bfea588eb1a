"""What each failure of a transport means, and its words for people. Pure."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Iterator
from typing import Literal, TypeAlias

import aiohttp

from dify_batch.dify import http
from dify_batch.dify.bodies import Unreadable
from dify_batch.dify.fence import TooLate
from dify_batch.dify.sse import TooLarge
from dify_batch.text import one_line

Meaning: TypeAlias = Literal["unreachable", "cut", "timeout"]

# Errors raised before a byte of the request was written. aiohttp derives its proxy, DNS, TLS and certificate errors
# from ClientConnectorError; ClientHttpProxyError is a proxy's refusal of CONNECT.
_NOT_SENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientConnectorCertificateError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ServerFingerprintMismatch,
    aiohttp.InvalidURL,
    aiohttp.NonHttpUrlClientError,
    TooLate,
    http.ConnectError,
    http.ConnectTimeout,
    http.PoolTimeout,
    http.ProxyError,
    http.UnsupportedProtocol,
    ConnectionRefusedError,
    socket.gaierror,
    ssl.SSLCertVerificationError,
)
_TIMED_OUT = (aiohttp.SocketTimeoutError, http.ReadTimeout, http.WriteTimeout)


def meaning(exc: BaseException) -> Meaning:
    """What a failure of a transport says about the request.

    "unreachable": it was certainly not sent (refused, DNS, TLS, connect timeout, a proxy that refuses).
    "timeout":     sent, and no answer in time.
    "cut":         everything else: it may have been acted on.

    The oldest aiohttp error in the chain of causes decides: another transport may turn ServerDisconnectedError, which
    says nothing about what the server did, into httpx.ConnectTimeout, which says that nothing was sent.
    """
    original: BaseException = exc
    for cause in _causes(exc):
        if isinstance(cause, aiohttp.ClientError):
            original = cause
    if isinstance(original, _NOT_SENT):
        return "unreachable"
    if isinstance(original, aiohttp.ClientError):
        return "timeout" if isinstance(original, _TIMED_OUT) else "cut"
    if isinstance(original, (*_TIMED_OUT, TimeoutError)):
        return "timeout"
    return "cut"


def _causes(exc: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = exc
    while cause is not None:
        yield cause
        if isinstance(cause, aiohttp.ClientConnectorError):
            yield cause.os_error
        cause = cause.__cause__


# Errors of this machine: its open files and its ports are used up. They say nothing of the server.
_OURS = {
    errno.EMFILE: "this process may not open more files",
    errno.ENFILE: "this machine cannot open more files",
    errno.EADDRNOTAVAIL: "this machine has no free port left",
}


def own_limit(exc: BaseException) -> str | None:
    """Which limit of this machine was reached, if that is what happened."""
    for cause in _causes(exc):
        if isinstance(cause, OSError) and cause.errno in _OURS:
            return _OURS[cause.errno]
    return None


def distrusted(exc: BaseException) -> bool:
    """Whether a certificate could not be trusted: that does not mend itself while a person watches."""
    kinds = (aiohttp.ClientConnectorCertificateError, ssl.SSLCertVerificationError)
    return any(isinstance(cause, kinds) for cause in _causes(exc))


# OpenSSL's numbers: the certificate is for another host name, or another address.
_OTHER_HOST = (62, 64)


def for_another_host(exc: BaseException) -> bool:
    """Whether a certificate is for another host than the one that was asked."""
    for cause in _causes(exc):
        error = cause.certificate_error if isinstance(cause, aiohttp.ClientConnectorCertificateError) else cause
        if isinstance(error, ssl.SSLCertVerificationError):
            return error.verify_code in _OTHER_HOST
    return False


_WORDS = {
    "unreachable": "no connection could be made",
    "timeout": "no answer in time",
    "cut": "the connection broke off",
}


def in_words(exc: BaseException) -> str:
    """What happened, for people: no names of classes, and none of aiohttp's own notes such as `ssl:default`."""
    if isinstance(exc, http.TransportError):  # worded by `as_httpx`, or another transport's own text
        return str(exc) or _WORDS[meaning(exc)]
    if isinstance(exc, aiohttp.ClientConnectorCertificateError):
        return f"the certificate of {exc.host}:{exc.port} cannot be trusted: {_reason(exc.certificate_error)}"
    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        return f"the name {exc.host} cannot be resolved: {_reason(exc.os_error)}"
    if isinstance(exc, aiohttp.ClientConnectorSSLError):
        return f"no TLS connection to {exc.host}:{exc.port}: {_reason(exc.os_error)}"
    if isinstance(exc, aiohttp.ClientConnectorError):
        return f"cannot connect to {exc.host}:{exc.port}: {_reason(exc.os_error)}"
    if isinstance(exc, aiohttp.ConnectionTimeoutError):
        return "no connection in time"
    if isinstance(exc, TooLate):
        return str(exc)
    if isinstance(exc, aiohttp.ServerDisconnectedError):
        return "the server closed the connection without an answer"
    if isinstance(exc, aiohttp.ClientPayloadError):
        return "the answer broke off before its end"
    if isinstance(exc, aiohttp.ClientResponseError):  # its own message quotes the bytes that it met
        return "the answer is not HTTP (is it another service's port?)"
    if isinstance(exc, TooLarge | Unreadable):
        return str(exc)
    if isinstance(exc, OSError) and not isinstance(exc, TimeoutError) and _reason(exc):
        return f"the connection broke off: {_reason(exc)}"
    if isinstance(exc, (aiohttp.ClientError, OSError)):
        return _WORDS[meaning(exc)]
    return one_line(str(exc)) or "the exchange failed"  # nothing of the network: the log file has its traceback


def _reason(exc: BaseException) -> str:
    """The system's words for an error: asyncio puts its own, with the address, in the place of "Connection refused"."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return exc.verify_message or str(exc.reason)
    if isinstance(exc, ssl.SSLError):
        return (exc.reason or str(exc)).replace("_", " ").lower()
    if isinstance(exc, socket.gaierror):
        return str(exc.strerror)
    if isinstance(exc, OSError) and exc.errno:
        return os.strerror(exc.errno)
    return str(exc)


def as_httpx(exc: Exception) -> http.TransportError:
    """The httpx error that says of `exc` what `meaning` says of it."""
    text = in_words(exc)
    if isinstance(exc, aiohttp.ClientHttpProxyError):
        return http.ProxyError(f"the proxy refuses the connection: HTTP {exc.status} {exc.message}")
    if isinstance(exc, aiohttp.ClientProxyConnectionError):
        return http.ProxyError(f"the proxy cannot be reached: {text}")
    kind = meaning(exc)
    if kind == "timeout":
        return http.ReadTimeout(text)
    if kind == "unreachable":
        timed_out = isinstance(exc, aiohttp.ConnectionTimeoutError)
        return http.ConnectTimeout(text) if timed_out else http.ConnectError(text)
    if isinstance(exc, aiohttp.ClientResponseError):
        return http.RemoteProtocolError(text)
    return http.ReadError(text)


class Broken(Exception):
    """An exchange failed in its transport, of whatever kind that is; `meaning` says how, the text what happened.

    `own_limit`: a limit of this machine was reached. `distrusted`: a certificate could not be trusted; `other_host`: as
    it is for another host. `garbled`: an answer came, and its bytes cannot be read; `too_large`: it has no end.
    """

    def __init__(self, cause: Exception) -> None:
        limit = own_limit(cause)
        super().__init__(limit or in_words(cause))
        self.meaning = meaning(cause)
        self.own_limit: bool = limit is not None
        self.distrusted: bool = distrusted(cause)
        self.other_host: bool = self.distrusted and for_another_host(cause)
        self.too_large: bool = isinstance(cause, TooLarge)
        self.garbled: bool = self.too_large or isinstance(cause, Unreadable)
