"""The three shapes of the account surface as one table: operation -> method and path. Nothing else knows a path.

    A   servers of 1.14 and 1.15: recorded exchanges of a real one (27*) are what this is held against
    B   1.16 and 1.17             read in the server's sources, not seen
    C   1.18 and later            read in the server's sources, not seen

Which shape a server has is told by one GET of `_version`. A shape that has no path for an operation does not have it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias
from urllib.parse import quote

Shape: TypeAlias = Literal["A", "B", "C"]
SHAPES: tuple[Shape, ...] = ("A", "B", "C")
RELEASES: Mapping[Shape, str] = {"A": "1.14 and 1.15", "B": "1.16 and 1.17", "C": "1.18 and later"}
SEEN: frozenset[Shape] = frozenset({"A"})
"""Shapes that were recorded from a real server; the others are read in its sources."""

PREFIX = "/openapi/v1"
CATALOG = "x-dify-catalog"
"""The header that C asks for with each request, and tells with each answer."""

MODES = ("workflow", "advanced-chat", "chat", "agent-chat", "completion")
TALKS = frozenset({"advanced-chat", "chat", "agent-chat"})
"""Modes whose request has a message, `query`."""

_APP = "/apps/{app_id}"
_TASK = _APP + "/tasks/{task_id}"
_EXTERNAL = "/permitted-external-apps"


def _same(method: str, path: str) -> dict[Shape, tuple[str, str]]:
    return dict.fromkeys(SHAPES, (method, path))


def _newer(method: str, a: str, b: str, c: str | None = None) -> dict[Shape, tuple[str, str]]:
    return {"A": (method, a), "B": (method, b), "C": (method, c or b)}


OPERATIONS: Mapping[str, Mapping[Shape, tuple[str, str]]] = {
    "version": _same("GET", "/_version"),
    "health": _same("GET", "/_health"),
    "device_code": _same("POST", "/oauth/device/code"),
    "device_token": _same("POST", "/oauth/device/token"),
    "account": _same("GET", "/account"),
    "revoke": _same("DELETE", "/account/sessions/self"),
    "workspaces": _same("GET", "/workspaces"),
    "apps": _same("GET", "/apps"),
    "external_apps": _same("GET", _EXTERNAL),
    "describe": _newer("GET", _APP + "/describe", _APP),
    "external_describe": _newer("GET", _EXTERNAL + "/{app_id}/describe", _EXTERNAL + "/{app_id}"),
    "run": _newer("POST", _APP + "/run", _APP + ":run", _APP + "/{kind}:run"),
    "external_run": {"A": ("POST", _EXTERNAL + "/{app_id}/run")},  # users' documents have it; no source that was read
    "stop": _newer("POST", _TASK + "/stop", _TASK + ":stop"),
    "events": _same("GET", _TASK + "/events"),  # by the run's id, in spite of the name [27j2]
    "upload": _newer("POST", _APP + "/files/upload", _APP + "/files"),
    "form": _newer("GET", _APP + "/form/human_input/{form_token}", _APP + "/human-input-forms/{form_token}"),
    "submit": _newer("POST", _APP + "/form/human_input/{form_token}", _APP + "/human-input-forms/{form_token}:submit"),
    "runs": {"C": ("GET", _APP + "/runs")},
    "run_detail": {"C": ("GET", _APP + "/runs/{run_id}")},
}

UNGUARDED = frozenset({"version", "health", "device_code", "device_token"})
"""Operations that take no token."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where an operation is found: method, and the path below the host, quoted."""

    method: str
    path: str


def route(shape: Shape, operation: str, **ids: str) -> Route | None:
    """The route of an operation, None where this shape does not have it. `ids` fill the path; they are quoted."""
    found = OPERATIONS[operation].get(shape)
    if found is None:
        return None
    method, path = found
    quoted = {name: quote(value, safe="") for name, value in ids.items()}
    return Route(method, PREFIX + re.sub(r"\{(\w+)\}", lambda match: quoted[match[1]], path))


def kind_of_run(mode: str) -> str:
    """The part of C's path that names the kind of app: agents are run as chats."""
    return "chat" if mode == "agent-chat" else mode if mode in MODES else "workflow"


def run_body(
    shape: Shape,
    mode: str,
    inputs: Mapping[str, Any],
    *,
    query: str | None = None,
    conversation_id: str | None = None,
    workflow_id: str | None = None,
    workspace_id: str | None = None,
) -> dict[str, Any]:
    """The body of a run. C refuses every field that the kind does not have; a name for a new conversation is never
    asked for, since it would be one more paid call of a model [31w]."""
    body: dict[str, Any] = {"inputs": dict(inputs)}
    if query is not None:
        body["query"] = query
    if conversation_id is not None:
        body["conversation_id"] = conversation_id
    if mode in TALKS:
        body["auto_generate_name"] = False
    if workflow_id is not None:
        body["workflow_id"] = workflow_id
    if shape == "C" and workspace_id is not None:
        body["workspace_id"] = workspace_id
    return body


def shape_of(version: str, catalog: str | None) -> Shape:
    """The shape of a server by the answer to GET `_version`: its `version`, and its catalog header."""
    if catalog:
        return "C"
    found = re.match(r"(\d+)\.(\d+)", version)
    return "B" if found is not None and (int(found[1]), int(found[2])) >= (1, 16) else "A"


def has_tags(shape: Shape) -> bool:
    """Whether GET apps filters by tag [27f12]; newer servers ignore it or refuse it."""
    return shape == "A"
