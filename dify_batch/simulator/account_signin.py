"""Signing in to the account surface: the device flow and the page where a person approves it (dify-wire 27a to 27c)."""

from __future__ import annotations

from html import escape
from urllib.parse import parse_qs

from . import account_wire as wire
from .account import GUEST, moment
from .account_exchange import AccountExchange
from .exchange import Request
from .site import Site
from .wire import HTML, Answer


async def device_code(exchange: AccountExchange) -> Answer:
    """POST oauth/device/code (dify-wire 27a)."""
    body, site = exchange.json_body(), exchange.site
    device = site.accounts.begin(str(body.get("client_id")), str(body.get("device_label") or ""))
    if device is None:
        return exchange.reply({"error": "unsupported_client"}, 400)
    if not device.label:
        return wire.refuse(exchange.shape, 400, "bad_request", "1 validation error for DeviceCodeRequest")
    return exchange.reply(
        {
            "device_code": device.code,
            "user_code": device.user_code,
            "verification_uri": f"{exchange.request.base_url}device",
            "expires_in": site.accounts.remaining(device),
            "interval": int(site.config.device_interval),
        }
    )


async def device_token(exchange: AccountExchange) -> Answer:
    """POST oauth/device/token (dify-wire 27b, 27c)."""
    accounts = exchange.site.accounts
    token = accounts.poll(str(exchange.json_body().get("device_code")))
    if isinstance(token, str):
        return exchange.reply({"error": token}, 400)
    person = token.person
    spaces = accounts.workspaces(person)
    who = {"account": {"id": person.id, "email": person.email, "name": person.name}}
    if person.external:
        who = {}
    return exchange.reply(
        {
            "token": token.text,
            "expires_at": moment(token.expires, "+00:00"),
            "subject_type": person.kind,
            **({"subject_email": person.email, "subject_issuer": person.issuer} if person.external else {}),
            **who,
            "workspaces": [space.brief() for space in spaces],
            "default_workspace_id": spaces[0].id if spaces else None,
            "token_id": token.id,
        }
    )


async def device_lookup(exchange: AccountExchange) -> Answer:
    """GET oauth/device/lookup (dify-wire 27b3)."""
    device = exchange.site.accounts.device(exchange.request.query.get("user_code", ""))
    if device is None:
        return exchange.reply({"valid": False, "expires_in_remaining": 0, "client_id": None})
    left = exchange.site.accounts.remaining(device)
    return exchange.reply({"valid": True, "expires_in_remaining": left, "client_id": device.client_id})


async def device_page(site: Site, request: Request) -> Answer:
    """The page of the verification address: GET shows a code, POST answers it (`action`: approve, deny; `as`: guest
    signs in through the external single sign-on)."""
    fields = {name: values[0] for name, values in parse_qs(request.body.decode("utf-8", "replace")).items()}
    code = fields.get("user_code") or request.query.get("user_code", "")
    device = site.accounts.device(code)
    said = "This code is not known, or it has been used."
    if device is not None and request.method == "POST":
        device.state = "denied" if fields.get("action") == "deny" else "approved"
        if fields.get("as") == "guest" and site.config.external_sso:
            device.person = GUEST
        said = f"Sign-in {device.state}. You may close this page."
    elif device is not None or not code:
        said = (
            f'<form method="post"><input name="user_code" value="{escape(code)}" placeholder="XXXX-XXXX"> '
            '<button name="action" value="approve">Approve</button> <button name="action" value="deny">Deny</button>'
            "</form>"
        )
    page = f"<!doctype html><html lang=en><title>Sign in</title><h1>Simulated Dify</h1><p>{said}</p></html>\n"
    return Answer(200, page.encode(), HTML)
