"""What a person can do about a refusal, by Dify's code or by a gateway's status. Pure; the one place of these texts."""

from __future__ import annotations

from collections.abc import Mapping

_OF_CODE: Mapping[str, str] = {
    "unauthorized": "check DIFY_API_KEY: the app's page in Dify, API Access, API Key",
    "forbidden": "turn the app's API on in Dify (API Access), or use a key with access",
    "not_workflow_app": "DIFY_API_KEY belongs to an app of another kind: leave --app-kind out, or name its kind",
    "app_unavailable": "publish the app in Dify (Publish), or use the key of a published app",
    "not_published": "publish the app in Dify (Publish), then run the same command again",
    "provider_not_initialize": "set up the model provider in Dify (Settings, Model Provider)",
    "model_currently_not_support": "choose a model in the app that its provider offers, and publish it",
    "bad_request": "check DIFY_WORKFLOW_ID: it is the id of a published version of this app",
    "not_found": "check DIFY_WORKFLOW_ID and DIFY_API_BASE_URL (does it end in /v1?)",
}


# Dify says `forbidden` for each of these; the text alone tells them apart (source: controllers/service_api/wraps.py).
_OF_FORBIDDEN: Mapping[str, str] = {
    "no longer exists": "the app has been deleted in Dify: use the key of another one, and a new -o for its results",
    "status is abnormal": "look at the app in Dify: it is not in use any more, or has been blocked",
    "is archived": "the app's workspace is archived: ask its owner",
}


def of_code(code: str, message: str = "") -> str:
    """What to do about an app that cannot run. `message`: Dify's own words."""
    if code == "forbidden":
        for said, cure in _OF_FORBIDDEN.items():
            if said in message:
                return cure
    return _OF_CODE.get(code, "look at the app in Dify, then run the same command again")


SPEAKS_HTTPS = (
    "plain HTTP request was sent to HTTPS port",  # nginx
    "Client sent an HTTP request to an HTTPS server",  # Go: Traefik, Caddy
    "speaking plain HTTP to an SSL-enabled server port",  # Apache
)
"""What is said to http:// where https:// belongs."""


def of_gateway(http_status: int, message: str) -> str:
    """What to do about a gateway's word at the first question."""
    match http_status:
        case 400 if any(said in message for said in SPEAKS_HTTPS):
            return "write DIFY_API_BASE_URL with https:// in place of http://"
        case 401:
            return "a gateway asks for a login of its own: check DIFY_API_BASE_URL, or ask who runs that gateway"
        case 402:
            return "check the account of the gateway or proxy in front of Dify: it asks for payment"
        case 407:
            return "the proxy asks for a login: set HTTPS_PROXY or HTTP_PROXY to http://user:password@host:port"
        case 403:
            return "check DIFY_API_BASE_URL, and ask who runs the gateway whether it lets this machine in"
        case 426:
            return "check DIFY_API_BASE_URL: https in place of http?"
        case 404 | 405:
            return "check DIFY_API_BASE_URL: should it end in /v1?"
        case status if 300 <= status < 400:
            return "check DIFY_API_BASE_URL (https in place of http?); redirects are not followed"
        case _:
            return "check DIFY_API_BASE_URL, and the proxy or gateway in front of Dify"
