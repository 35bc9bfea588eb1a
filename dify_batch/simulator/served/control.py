"""The control port: counters, faults and settings from outside the process. Works while the server refuses."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from ..exchange import Connection, Request
from ..wire import Answer, answer_json


class Controls(Protocol):
    """What the control port may do; all of it in the server's event loop. ValueError: a bad request."""

    def state(self, with_runs: bool = True) -> dict[str, Any]: ...
    def ledger(self) -> list[dict[str, Any]]: ...
    async def set_faults(self, plan: Mapping[str, object]) -> None: ...
    def set_config(self, changes: Mapping[str, object]) -> None: ...
    async def refuse(self, on: bool, seconds: float | None = None) -> None: ...
    async def crash(self, what: str, seconds: float | None = None, number: int | None = None) -> None: ...
    async def restart(self, what: str, number: int | None = None) -> None: ...
    def reset(self) -> None: ...
    def submit_form(self, run_id: str, action: str, answers: Mapping[str, object]) -> None: ...


def build_control(controls: Controls) -> Callable[[Request, Connection], Awaitable[Answer]]:
    """GET /state, /ledger; POST /faults, /config, /refuse, /crash, /restart, /reset, /forms/{run id}."""

    async def handle(request: Request, connection: Connection) -> Answer:
        try:
            return await _answer(controls, request)
        except ValueError as e:
            return answer_json({"error": str(e)}, 400)

    return handle


async def _answer(controls: Controls, request: Request) -> Answer:
    fields = json.loads(request.body) if request.body.strip() else {}
    if not isinstance(fields, dict):
        raise ValueError(f"the body must be a JSON object, got {type(fields).__name__}")
    path = request.path
    if request.method == "GET" and path == "/state":
        return answer_json(controls.state(with_runs=request.query.get("runs") != "0"))
    if request.method == "GET" and path == "/ledger":
        return answer_json(controls.ledger())
    what, number, seconds = fields.get("what", ""), fields.get("number"), fields.get("seconds")
    actions: dict[str, Callable[[], Awaitable[None] | None]] = {
        "/faults": lambda: controls.set_faults(fields),
        "/config": lambda: controls.set_config(fields),
        "/refuse": lambda: controls.refuse(fields.get("on", True), seconds),
        "/crash": lambda: controls.crash(what, seconds, number),
        "/restart": lambda: controls.restart(what, number),
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
