"""The proxy that the environment names for a URL. Pure, but for the environment.

httpx ignores HTTP_PROXY and its like once it is handed a transport, so they are read here.
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Iterator, Mapping
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

from dify_batch.errors import UsageError


def proxy_for(url: str, environ: Mapping[str, str] | None = None) -> tuple[str, str | None] | None:
    """The proxy that the environment names for a URL: (its URL without credentials, Proxy-Authorization), or None.

    HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY in either case, the lower one first. NO_PROXY takes host names
    (their subdomains are meant too), host:port, addresses, networks (10.0.0.0/8) and `*`.

    Raises:
        UsageError: the proxy is a SOCKS one, or its URL cannot be read.
    """
    parts = urlsplit(url)
    proxies = getproxies_environment() if environ is None else dict(environ)
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or _bypassed(parts.hostname or "", parts.netloc, proxies):
        return None
    named = "HTTPS_PROXY" if parts.scheme == "https" else "HTTP_PROXY"
    named = named if proxies.get(parts.scheme) else "ALL_PROXY"
    split = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if split.scheme.startswith("socks"):
        raise UsageError(
            f"{named} names a SOCKS proxy ({split.scheme}://), and only http:// and https:// proxies are supported",
            hint=f"set {named} to an HTTP proxy, or NO_PROXY={parts.hostname} to go without",
        )
    try:
        port = split.port
    except ValueError:
        port = -1
    if split.scheme not in ("http", "https") or not split.hostname or port == -1:
        raise UsageError(f"{named} is not the URL of a proxy", hint=f"write it as {named}=http://proxy.example:3128")
    credentials = None
    if split.username is not None:
        pair = f"{unquote(split.username)}:{unquote(split.password or '')}"
        credentials = "Basic " + base64.b64encode(pair.encode()).decode()
    bare = urlunsplit((split.scheme, split.netloc.rpartition("@")[2], "", "", ""))
    return bare, credentials


def _bypassed(host: str, netloc: str, proxies: Mapping[str, str]) -> bool:
    if proxy_bypass_environment(netloc.rpartition("@")[2], dict(proxies)):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return any(address in network for network in _networks(proxies.get("no", "")))


def _networks(no_proxy: str) -> Iterator[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    for item in no_proxy.split(","):
        try:
            yield ipaddress.ip_network(item.strip().strip("[]"), strict=False)
        except ValueError:
            continue  # a host name
