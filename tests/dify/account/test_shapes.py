"""The table of the three shapes, and what tells them apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dify_batch.dify.account.shapes import OPERATIONS, SEEN, SHAPES, Shape, kind_of_run, route, run_body, shape_of

IDS = {"app_id": "a/b", "task_id": "t", "form_token": "f", "run_id": "r", "kind": "workflow"}


@pytest.mark.parametrize(
    ("operation", "a", "b", "c"),
    [
        ("describe", "GET /apps/a%2Fb/describe", "GET /apps/a%2Fb", "GET /apps/a%2Fb"),
        ("run", "POST /apps/a%2Fb/run", "POST /apps/a%2Fb:run", "POST /apps/a%2Fb/workflow:run"),
        ("stop", "POST /apps/a%2Fb/tasks/t/stop", "POST /apps/a%2Fb/tasks/t:stop", "POST /apps/a%2Fb/tasks/t:stop"),
        ("events", *["GET /apps/a%2Fb/tasks/t/events"] * 3),
        ("upload", "POST /apps/a%2Fb/files/upload", "POST /apps/a%2Fb/files", "POST /apps/a%2Fb/files"),
        (
            "form",
            "GET /apps/a%2Fb/form/human_input/f",
            "GET /apps/a%2Fb/human-input-forms/f",
            "GET /apps/a%2Fb/human-input-forms/f",
        ),
        (
            "submit",
            "POST /apps/a%2Fb/form/human_input/f",
            "POST /apps/a%2Fb/human-input-forms/f:submit",
            "POST /apps/a%2Fb/human-input-forms/f:submit",
        ),
        ("runs", None, None, "GET /apps/a%2Fb/runs"),
        ("external_run", "POST /permitted-external-apps/a%2Fb/run", None, None),
        ("account", *["GET /account"] * 3),
        ("revoke", *["DELETE /account/sessions/self"] * 3),
    ],
)
def test_where_an_operation_is(operation: str, a: str | None, b: str | None, c: str | None) -> None:
    for shape, wanted in zip(SHAPES, (a, b, c), strict=True):
        found = route(shape, operation, **IDS)
        shown = None if found is None else f"{found.method} {found.path.removeprefix('/openapi/v1')}"
        assert shown == wanted


def test_every_operation_has_a_route_in_some_shape_and_only_a_was_seen() -> None:
    assert all(OPERATIONS.values())
    assert set(SEEN) == {"A"}


@pytest.mark.parametrize(
    ("version", "catalog", "shape"),
    [
        ("1.14.2", None, "A"),
        ("1.15.0", None, "A"),
        ("1.16.0-rc1", None, "B"),
        ("1.17.3", None, "B"),
        ("2.0.0", None, "B"),
        ("1.18.0", "abc", "C"),
        ("1.14.2", "abc", "C"),
        ("", None, "A"),
        ("strange", None, "A"),
    ],
)
def test_the_shape_of_a_server(version: str, catalog: str | None, shape: Shape) -> None:
    assert shape_of(version, catalog) == shape


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("workflow", "workflow"), ("advanced-chat", "advanced-chat"), ("chat", "chat"), ("agent-chat", "chat"),
     ("completion", "completion"), ("new-agent", "workflow")],
)  # fmt: skip
def test_agents_are_run_as_chats(mode: str, kind: str) -> None:
    assert kind_of_run(mode) == kind


def test_bodies_have_no_field_that_a_shape_refuses() -> None:
    for shape in SHAPES:
        assert run_body(shape, "workflow", {"q": 1}) == {"inputs": {"q": 1}}
    chat = run_body("C", "chat", {}, query="hi", conversation_id="c", workspace_id="w")
    assert chat == {
        "inputs": {}, "query": "hi", "conversation_id": "c", "auto_generate_name": False, "workspace_id": "w",
    }  # fmt: skip
    assert "workspace_id" not in run_body("A", "workflow", {}, workspace_id="w")
    assert "auto_generate_name" not in run_body("C", "completion", {})


def test_the_recorded_paths_are_those_of_a() -> None:
    """Each recorded request of the surface is one of the table."""
    wire = Path(__file__).parents[2] / "wire"
    app, run = "b677053c-2cf3-4dec-8d80-e3c53454fb3e", "99840e53-14a0-4b0d-887f-8e70219c6289"
    ids = {"app_id": app, "task_id": run, "form_token": "nmJw0Ql5tszeDYQEGmK3qH", "run_id": run, "kind": "workflow"}
    known = {f"{found.method} {found.path}" for name in OPERATIONS if (found := route("A", name, **ids)) is not None}
    for name in ("27-version", "27a-device-code", "27b-device-token-pending", "27d-account", "27e-workspaces",
                 "27g-describe-W1", "27i-run", "27j-events-finished", "27o-revoke-self"):  # fmt: skip
        request = json.loads((wire / f"{name}.json").read_text())["request"]
        assert f"{request['method']} {request['path'].split('?')[0]}" in known, name
