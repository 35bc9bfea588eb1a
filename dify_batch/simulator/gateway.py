"""What stands in front of a Dify and answers in its place, as proxies, load balancers and firewalls word it. Pure."""

from __future__ import annotations

from .wire import Answer

_TEXT = "text/plain; charset=utf-8"
_HTML = "text/html"
_PAGES = {
    400: "Bad Request",
    401: "Authorization Required",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Not Allowed",
    407: "Proxy Authentication Required",
    413: "Request Entity Too Large",
    426: "Upgrade Required",
    429: "Too Many Requests",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Temporarily Unavailable",
    504: "Gateway Time-out",
}


def page(status: int) -> Answer:
    """What nginx answers by itself."""
    title = f"{status} {_PAGES[status]}"
    html = (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n"
        f"<center><h1>{title}</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    )
    extra = (("WWW-Authenticate", 'Basic realm="internal"'),) if status == 401 else ()
    return _answer(status, html, _HTML, *extra)


def _answer(status: int, text: str, media: str, *headers: tuple[str, str]) -> Answer:
    return Answer(status, text.encode(), media, (("Server", "nginx"), *headers), dify=False)


_FIREWALL = "<html><head><title>Request blocked</title></head><body><h1>Request blocked</h1>ID: 7f3a</body></html>\n"
_MAINTENANCE = "<!doctype html><html><title>Maintenance</title><p>We will be back at 14:00.</p></html>\n"

_ANSWERS: dict[str, tuple[str, Answer]] = {
    **{f"gateway_{status}": (f"{status} {text} as HTML", page(status)) for status, text in _PAGES.items()},
    "gateway_302": ("302 to /login", _answer(302, "", _HTML, ("Location", "/login?next=%2Fv1"))),
    "gateway_404_text": ("`404 page not found` as text (Traefik)", _answer(404, "404 page not found\n", _TEXT)),
    "gateway_404_backend": ("`default backend - 404` (ingress-nginx)", _answer(404, "default backend - 404", _TEXT)),
    "gateway_404_json": (
        "404 in another program's JSON (Kong)",
        _answer(404, '{"message":"no Route matched with those values"}', "application/json"),
    ),
    "gateway_400_https": (
        "400, plain HTTP sent to an HTTPS port",
        _answer(
            400, page(400).body.decode().replace("</h1>", "</h1>The plain HTTP request was sent to HTTPS port"), _HTML
        ),
    ),
    "gateway_403_firewall": ("403, a firewall's word about the text", _answer(403, _FIREWALL, _HTML)),
    "gateway_200_page": ("200 with a maintenance page", _answer(200, _MAINTENANCE, _HTML)),
    "gateway_200_json": ("200 in another program's JSON", _answer(200, '{"status":"ok"}', "application/json")),
    "gateway_200_empty": ("200 with nothing", _answer(200, "", _TEXT)),
}
GATEWAY_FAULTS = {name: f"{text}; Dify never sees the request" for name, (text, _) in _ANSWERS.items()}


def gateway_answer(name: str, retry_after: float | None = None) -> Answer | None:
    """The answer of a gateway's fault; None for any other. retry_after: seconds, for its Retry-After."""
    if name not in _ANSWERS:
        return None
    answer = _ANSWERS[name][1]
    if retry_after is None:
        return answer
    return Answer(
        answer.status,
        answer.body,
        answer.content_type,
        (*answer.headers, ("Retry-After", f"{retry_after:g}")),
        dify=False,
    )
