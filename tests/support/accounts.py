"""Signing in to the simulated account surface, and asking it as any client would."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx

from dify_batch.simulator import Simulator
from dify_batch.simulator.account_wire import catalog_value
from dify_batch.simulator.apps import APPS

CLIENT = "difyctl"
SHAPES = ("A", "B", "C")
IDS = {key: app.id for key, app in APPS.items()}


def surface(sim: Simulator) -> str:
    return sim.base_url.removesuffix("/v1") + "/openapi/v1"


def plain(sim: Simulator, token: str | None = None, **headers: str) -> httpx.Client:
    """A client of the surface; with the catalog's value, which A and B do not mind."""
    given = {"X-Dify-Catalog": catalog_value(), **headers}
    if token is not None:
        given["Authorization"] = f"Bearer {token}"
    return httpx.Client(base_url=surface(sim), headers=given, timeout=10, trust_env=False, verify=False)


def begin(sim: Simulator, label: str = "test") -> dict[str, Any]:
    with plain(sim) as http:
        return dict(http.post("/oauth/device/code", json={"client_id": CLIENT, "device_label": label}).json())


def decide(sim: Simulator, user_code: str, action: str = "approve", person: str = "") -> None:
    """What a person does on the page of the verification address."""
    address = sim.base_url.removesuffix("/v1") + "/device"
    fields = {"user_code": user_code, "action": action, "as": person}
    httpx.post(address, data=fields, trust_env=False, verify=False).raise_for_status()


def poll(sim: Simulator, device_code: str) -> httpx.Response:
    with plain(sim) as http:
        return http.post("/oauth/device/token", json={"device_code": device_code, "client_id": CLIENT})


def sign_in(sim: Simulator, person: str = "", label: str = "test") -> str:
    """A token, by the whole device flow."""
    device = begin(sim, label)
    decide(sim, device["user_code"], person=person)
    return str(poll(sim, device["device_code"]).json()["token"])


def workspace(sim: Simulator, token: str) -> str:
    with plain(sim, token) as http:
        return str(http.get("/account").json()["default_workspace_id"])


def request_of(name: str, exchange: dict[str, Any]) -> tuple[str, str, bytes | None, str | None]:
    """(method, path below the surface, body, content type) of a recorded exchange."""
    request = exchange["request"]
    path = request["path"].removeprefix("/openapi/v1")
    body = None if request["body"] is None else request["body"].encode()
    return request["method"], path, body, request["headers"].get("Content-Type")


RECORDED_APPS = {
    "b677053c-2cf3-4dec-8d80-e3c53454fb3e": "app-echo",
    "906e996a-296b-4e5e-8805-340356986cc4": "app-files",
    "d31cbebf-f3ed-401f-ab4c-d2eb6ffb9c49": "app-unpublished",
    "633e0688-d94e-4a6e-b48a-ed3e1e8b1a41": "app-disabled",
    "94537edd-4319-40e2-adf5-cb4765b50998": "app-human",
    "5b02b1e8-95f9-4fc0-85eb-f32e6bb8f842": "app-chat",
    "76e17a93-6d52-41a1-a7a6-c315c50d83da": "app-demo",
}
"""Apps of the recorded server -> those of the simulator that are the same."""


def translated(path: str, workspace_id: str) -> str:
    """The path with the simulator's ids in the place of the recorded ones."""
    for recorded, key in RECORDED_APPS.items():
        path = path.replace(recorded, IDS[key])
    return re.sub(r"(?<=workspace_id=)1082254a[0-9a-f-]+", workspace_id, path)


def events_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(block[6:]) for block in text.split("\n\n") if block.startswith("data: ")]
