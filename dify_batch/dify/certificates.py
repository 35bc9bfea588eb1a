"""What to do about a certificate that is not trusted, and whom it is for (one more connection, after a failure)."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import Mapping

_SUBJECT_ALT_NAME = b"\x06\x03\x55\x1d\x11"  # the object identifier 2.5.29.17
_DNS, _ADDRESS = 0x82, 0x87
_SHOWN = 5  # names in a hint
_WITHIN = 5.0  # seconds

# What companies set for other programs, and this one does not read.
_OTHERS = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def hint(environ: Mapping[str, str], names: tuple[str, ...] = ()) -> str:
    """What to type. `names`: whom the certificate is for, where it is for another host."""
    if names:
        shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
        return f"the certificate is for {shown}: name that host in DIFY_API_BASE_URL"
    for other in _OTHERS:
        if environ.get(other) and not (environ.get("SSL_CERT_FILE") or environ.get("SSL_CERT_DIR")):
            return f"set SSL_CERT_FILE={environ[other]} ({other} is set, and not read by this program)"
    return "set SSL_CERT_FILE to the file of the authority that signed it (or SSL_CERT_DIR to its folder)"


async def names_at(host: str, port: int) -> tuple[str, ...]:
    """Whom the certificate at an address is for; () if that cannot be had. Nothing is sent to it."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # to look at it, not to trust it
    try:
        async with asyncio.timeout(_WITHIN):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
    except (OSError, TimeoutError):
        return ()
    try:
        link = writer.get_extra_info("ssl_object")
        der = link.getpeercert(binary_form=True) if link is not None else None
        return names_in(der or b"")
    finally:
        writer.transport.abort()


def names_in(der: bytes) -> tuple[str, ...]:
    """The host names and addresses of a certificate, out of its bytes: Python tells them only of a trusted one.

    The extension is its identifier, perhaps a flag, and an octet string that holds a sequence of names; each name is a
    tag, a length, its text.
    """
    at = der.find(_SUBJECT_ALT_NAME)
    if at < 0:
        return ()
    try:
        at += len(_SUBJECT_ALT_NAME)
        if der[at] == 0x01:  # critical
            at += 3
        _, at, _ = _element(der, at)
        _, at, end = _element(der, at)
        names = []
        while at < end:
            tag, start, at = _element(der, at)
            text = der[start:at]
            if tag == _DNS:
                names.append(text.decode("ascii", "replace"))
            elif tag == _ADDRESS:
                names.append(str(ipaddress.ip_address(text)))
    except (IndexError, ValueError):
        return ()
    return tuple(name for name in names if name.isprintable())


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """The tag of an element, and where its content begins and ends."""
    tag, length, at = der[at], der[at + 1], at + 2
    if length & 0x80:
        count = length & 0x7F
        length, at = int.from_bytes(der[at : at + count], "big"), at + count
    return tag, at, at + length
