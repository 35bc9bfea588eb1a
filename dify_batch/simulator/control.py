"""The control port: counters, faults and settings from outside the process. Works while the server refuses."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from .wire import Answer, answer_json, send_answer


class Controls(Protocol):
    """What the control port may do; all of it in the server's event loop. ValueError: a bad request."""

    def state(self, with_runs: bool = True) -> dict[str, Any]: ...
    async def set_faults(self, plan: Mapping[str, object]) -> None: ...
    def set_config(self, changes: Mapping[str, object]) -> None: ...
    async def refuse(self, on: bool, seconds: float | None = None) -> None: ...
    def reset(self) -> None: ...
    def submit_form(self, run_id: str, action: str, answers: Mapping[str, object]) -> None: ...


def build_control(controls: Controls) -> ASGIApp:
    """The control port's ASGI application: GET /state, POST /faults, /config, /refuse, /reset, /forms/{run id}."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            body = await request.body()
            answer = await _answer(controls, request, body)
        except ClientDisconnect:
            return
        except ValueError as e:
            answer = answer_json({"error": str(e)}, 400)
        await send_answer(send, answer)

    return app


async def _answer(controls: Controls, request: Request, body: bytes) -> Answer:
    fields = json.loads(body) if body.strip() else {}
    if not isinstance(fields, dict):
        raise ValueError(f"the body must be a JSON object, got {type(fields).__name__}")
    path = request.url.path
    if request.method == "GET" and path == "/state":
        return answer_json(controls.state(with_runs=request.query_params.get("runs") != "0"))
    actions: dict[str, Callable[[], Awaitable[None] | None]] = {
        "/faults": lambda: controls.set_faults(fields),
        "/config": lambda: controls.set_config(fields),
        "/refuse": lambda: controls.refuse(fields.get("on", True), fields.get("seconds")),
        "/reset": controls.reset,
    }
    if path.startswith("/forms/"):
        run_id = path.removeprefix("/forms/")
        actions[path] = lambda: controls.submit_form(
            run_id, fields.get("action", "approve"), fields.get("inputs", {"comment": "ok"})
        )
    if path not in actions:
        return answer_json({"error": f"no such control: {path}; GET /state, or POST {', '.join(actions)}"}, 404)
    if request.method != "POST":
        return answer_json({"error": f"{path} takes POST"}, 405)
    waiting = actions[path]()
    if waiting is not None:
        await waiting
    return answer_json({"result": "success"})
