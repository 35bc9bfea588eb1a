"""The checks of the three settings that address Dify: the key, the version and the base URL.

Nothing here prints: a wrong value is a UsageError that says what was probably meant.
"""

from __future__ import annotations

import errno
import os
import re
import ssl
from collections.abc import Mapping
from typing import NoReturn
from urllib.parse import urlsplit

from dify_batch.errors import AuthError, UsageError
from dify_batch.flags import DEFAULT_BASE_URL
from dify_batch.text import show

# What people leave in place of a value. A real key is app- and letters and digits, so "app-your-..." is none.
_PLACEHOLDER = re.compile(
    r"(app-?)?(x{3,}|\*+|\.{2,}|…+|<.*>|\{.*\}|\[.*\])?|(app-)?your[-_ ].*"
    r"|(app-)?(change[-_ ]?me|placeholder|todo)|[x0]{8}(-[x0]{4}){3}-[x0]{12}",
    re.IGNORECASE,
)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_KEY_HINT = "put the app's key (in Dify: API Access, API Key) into .env as DIFY_API_KEY=app-..., or try --demo"


def check_key(key: str) -> None:
    """Errors here never show any part of the key."""
    if not key:
        raise AuthError("no API key: DIFY_API_KEY is not set", code="not_logged_in", hint=_KEY_HINT)
    if _PLACEHOLDER.fullmatch(key):
        raise UsageError("DIFY_API_KEY is still a placeholder, not a key", hint=_KEY_HINT)
    fault = None
    if key.lower().startswith("bearer "):
        fault = 'begins with "Bearer", which does not belong to it'
    elif re.search(r"[\r\n]", key):
        fault = "contains a line break"
    elif re.search(r"\s", key):
        fault = "contains a blank"
    elif re.search("[\"'`“”‘’]", key):
        fault = "contains a quote"
    elif not key.isascii() or not key.isprintable():
        fault = "contains a character that no key has (not ASCII)"
    elif key.startswith("dataset-"):
        fault = "is a key of a knowledge base; a workflow app's begins with app-"
    elif key.startswith(("dfoa_", "dfoe_")):
        fault = "is an account token, which /v1 does not accept; an app's key begins with app-"
    if fault:
        raise UsageError(f"DIFY_API_KEY {fault}. (Its value is not shown.)", hint=_KEY_HINT)


def check_workflow_id(value: str | None) -> None:
    if value is None:
        return
    hint = "leave DIFY_WORKFLOW_ID empty to run the published version"
    if value.startswith("app-") and not _PLACEHOLDER.fullmatch(value):
        raise UsageError("DIFY_WORKFLOW_ID holds an API key. (Its value is not shown.)", hint=hint)
    if _PLACEHOLDER.fullmatch(value):
        raise UsageError(f'DIFY_WORKFLOW_ID: "{value}" is still a placeholder', hint=hint)
    if not _UUID.fullmatch(value):
        allowed = "a UUID such as 3b1f0d4e-7c2a-4e57-9f0b-2d6c8a1e5f90"
        raise UsageError(f'DIFY_WORKFLOW_ID: "{value}" is not {allowed}', hint=hint)


def check_certificates(base_url: str, environ: Mapping[str, str]) -> None:
    """Raises UsageError where the certificates that the environment names (SSL_CERT_FILE, SSL_CERT_DIR) are not to be
    had: the TLS library would only say that some file is missing."""
    if not base_url.startswith("https:"):
        return
    file, folder = environ.get("SSL_CERT_FILE"), environ.get("SSL_CERT_DIR")
    name, path = ("SSL_CERT_FILE", file) if file else ("SSL_CERT_DIR", folder)
    if not path:
        return
    hint = f"correct {name}, or take it out of the environment to use the certificates that come with this program"
    try:
        ssl.create_default_context(cafile=file or None, capath=None if file else folder)
        if not file and not os.path.isdir(path):
            raise FileNotFoundError(errno.ENOENT, "there is no such folder")
    except ssl.SSLError:
        raise UsageError(f"{name}: {show(path, 200)} holds no certificates", hint=hint) from None
    except OSError as error:
        raise UsageError(f"{name}: {show(path, 200)} cannot be read: {error.strerror}", hint=hint) from None


def mask_url(url: str) -> str:
    """The URL without the user and password in it; for everything that is shown."""
    return re.sub(r"(?<=//)[^/?#\s]*@", "***@", url)


def without_user(url: str) -> str:
    """The URL with nothing in the place of the user and password."""
    return re.sub(r"(?<=//)[^/?#\s]*@", "", url)


def _mended(url: str) -> str | None:
    """What somebody gave, without what cannot stand in it: quotes, brackets, a user, a query. None where no host is
    left of it, or it is still no address."""
    plain = without_user(re.sub(r"[\s\"'<>\x00-\x1f]", "", url))
    plain = re.split(r"[?#]", re.sub(r"^(https?)[:/]+", r"\1://", plain, flags=re.IGNORECASE))[0].rstrip("/")
    if re.match(r"https?://[^/:@\[\]]+(:\d+)?(/|$)", plain, re.IGNORECASE) is None:
        return None
    return plain if plain.count("/") > 2 else f"{plain}/v1"


_CALLS = re.compile(
    r"/(workflows|chat-messages|completion-messages|parameters|info|site|meta|files|datasets|workflow|messages)(/.*)?$"
)
_CONSOLE = re.compile(r"/(apps?|workflow|chat|completion|chatbot|signin|install|explore|datasets|console)(/.*)?$")


def read_base_url(text: str) -> tuple[str, str | None]:
    """The base URL without trailing slashes, ending in /v1, and a note where /v1 was added.

    Raises UsageError for what cannot be the address of Dify's API, with what was probably meant.
    """
    url = text.strip()
    shown = mask_url(url) if "://" in url else mask_url("//" + url)[2:]

    def wrong(what: str, meant: str | None = None) -> NoReturn:
        meant = meant or _mended(url)
        cure = f"probably meant: DIFY_API_BASE_URL={meant}" if meant else "it looks like https://dify.example.com/v1"
        raise UsageError(f'DIFY_API_BASE_URL: "{shown}" {what}', hint=cure)

    if re.search(r"[\s\"'<>\x00-\x1f]", url):
        wrong("contains a blank, a quote or a bracket")
    scheme, sep, rest = url.partition("://")
    if not sep:
        if re.match(r"https?[:/]", url, re.IGNORECASE):
            wrong("is not a URL: after http or https comes ://")
        local = re.match(r"(localhost|127\.|10\.|192\.168\.|172\.|[^/.]+(:\d+)?(/|$))", url)
        tail = url.rstrip("/")
        meant = f"{'http' if local else 'https'}://{without_user('//' + tail)[2:]}"
        wrong("has no scheme (http:// or https://)", meant if "/" in tail else f"{meant}/v1")
    if scheme.lower() not in ("http", "https"):
        wrong(f'begins with "{scheme}://"; only http:// and https:// are possible')
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        wrong("has a host or port that cannot be read")
    if not host:
        wrong("has no host")
    if "?" in rest or "#" in rest:
        wrong(
            "has a query or fragment (? or #), which a base URL cannot have",
            shown.split("?")[0].split("#")[0],
        )
    if "@" in parts.netloc:
        raise UsageError(
            f'DIFY_API_BASE_URL: "{shown}" holds a user, which cannot be sent: basic auth and the app\'s key need the '
            "same header",
            hint=f"probably meant: DIFY_API_BASE_URL={_mended(url) or without_user(url)}",
        )
    root = f"{scheme.lower()}://{parts.netloc}"
    path = re.sub(r"/+$", "", parts.path)
    if host in ("cloud.dify.ai", "dify.ai", "www.dify.ai", "udify.app"):
        wrong("is a page of Dify, not its API", DEFAULT_BASE_URL)
    if path.endswith("/v1/v1"):
        wrong("ends in /v1 twice", mask_url(root + path[: -len("/v1")]))
    if path.endswith("/openapi/v1"):
        wrong("is the account API, which takes no app key", mask_url(root + path[: -len("/openapi/v1")] + "/v1"))
    before, v1, call = path.partition("/v1/")
    if v1 and _CALLS.match("/" + call):
        wrong("is the address of one call, not the base of all", mask_url(f"{root}{before}/v1"))
    if not path.endswith("/v1") and _CONSOLE.match(path):
        wrong("is a page of Dify's console, not its API", mask_url(f"{root}/v1"))
    if not path:
        note = f"DIFY_API_BASE_URL has no path; {mask_url(root)}/v1 is used. Write it so to be rid of this note."
        return f"{root}/v1", note
    if not path.endswith("/v1"):
        return root + path, f'DIFY_API_BASE_URL: "{shown}" does not end in /v1; it is used as it is.'
    return root + path, None
