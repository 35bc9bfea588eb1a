"""The events of a run, field by field and in Dify's order (dify-wire section 2). Pure."""

from __future__ import annotations

import json
from typing import Any

from .apps import HUMAN, Inputs
from .channel import Event
from .oddities import json_of
from .runs import Form, NodeRun, Run
from .wire import compact, spaced

FORM_FIELDS: list[dict[str, Any]] = [
    {
        "output_variable_name": "comment",
        "type": "paragraph",
        "default": {"type": "constant", "selector": [], "value": "ok"},
    }
]
FORM_ACTIONS: list[dict[str, Any]] = [
    {"id": "approve", "title": "Approve", "button_style": "primary"},
    {"id": "reject", "title": "Reject", "button_style": "default"},
]
MEGABYTE = 1_000_000


def live_event(run: Run, name: str, data: dict[str, Any]) -> Event:
    """An event of a POST stream, and of the events endpoint once it is live."""
    text = json_of(
        run.oddity, {"event": name, "workflow_run_id": run.id, "task_id": run.task_id, "data": data}, compact
    )
    return Event(name, f"data: {text}\n\n".encode())


def error_event(message: str) -> Event:
    """No task_id, no run id, no code, and status 500 even for a bad input (dify-wire 05b)."""
    return Event("error", f"data: {compact({'event': 'error', 'message': message, 'status': 500})}\n\n".encode())


def workflow_started(run: Run, inputs: Inputs, created_at: int, reason: str, snapshot: bool = False) -> dict[str, Any]:
    return {
        "id": run.id,
        "workflow_id": run.app.workflow_id,
        "inputs": inputs | run.system_inputs(timestamp=snapshot),
        "created_at": created_at,
        "reason": reason,
    }


def text_chunk(text: str, node: str, variable: str) -> dict[str, Any]:
    return {"text": text, "from_variable_selector": [node, variable]}


def node_started(node_run: NodeRun) -> dict[str, Any]:
    return {
        "id": node_run.id,
        "node_id": node_run.node.id,
        "node_type": node_run.node.type,
        "title": node_run.node.title,
        "index": 1,
        "predecessor_node_id": None,
        "inputs": None,
        "inputs_truncated": False,
        "created_at": node_run.started,
        "extras": {},
        "iteration_id": None,
        "loop_id": None,
        "agent_strategy": None,
    }


def node_finished(
    node_run: NodeRun,
    inputs: Inputs,
    outputs: Inputs,
    *,
    process_data: Inputs | None = None,
    error: str | None = None,
    metadata: Inputs | None = None,
) -> dict[str, Any]:
    return {
        "id": node_run.id,
        "node_id": node_run.node.id,
        "node_type": node_run.node.type,
        "title": node_run.node.title,
        "index": 1,
        "predecessor_node_id": None,
        "inputs": inputs,
        "inputs_truncated": False,
        "process_data": process_data or {},
        "process_data_truncated": False,
        "outputs": outputs,
        "outputs_truncated": False,
        "status": node_run.status,
        "error": error,
        "elapsed_time": node_run.elapsed,
        "execution_metadata": metadata,
        "created_at": node_run.started,
        "finished_at": node_run.finished,
        "files": _files(outputs),
        "iteration_id": None,
        "loop_id": None,
    }


def workflow_finished(
    run: Run,
    status: str,
    outputs: Inputs,
    error: str | None,
    elapsed: float,
    tokens: int,
    steps: int,
    created_at: int,
    finished_at: int,
    exceptions: int,
) -> dict[str, Any]:
    return {
        "id": run.id,
        "workflow_id": run.app.workflow_id,
        "status": status,
        "outputs": outputs,
        "error": error,
        "elapsed_time": elapsed,
        "total_tokens": tokens,
        "total_steps": steps,
        "created_by": run.created_by(),
        "created_at": created_at,
        "finished_at": finished_at,
        "exceptions_count": exceptions,
        "files": _files(outputs),
    }


def _files(outputs: Inputs) -> list[Any]:
    items = [item for value in outputs.values() for item in (value if isinstance(value, list) else [value])]
    return [item for item in items if isinstance(item, dict) and item.get("dify_model_identity")]


def stored_finish(run: Run) -> bytes:
    """The events endpoint of a finished run: one event, spaced, with the run id as task_id (dify-wire 24l)."""
    data = workflow_finished(
        run,
        run.status,
        json.loads(run.outputs),
        run.error,
        run.elapsed,
        run.tokens,
        run.steps,
        int(run.created_at),
        int(run.finished_at or run.created_at),
        run.exceptions,
    )
    event = {"event": "workflow_finished", "task_id": run.id, "workflow_run_id": run.id, "data": data}
    return f"data: {json_of(run.oddity, event, spaced)}\n\n".encode()


def pause_reason(form: Form, content: str) -> dict[str, Any]:
    return {
        "TYPE": "human_input_required",
        "form_id": form.id,
        "form_content": content,
        "inputs": FORM_FIELDS,
        "actions": FORM_ACTIONS,
        "node_id": HUMAN.id,
        "node_title": HUMAN.title,
        "resolved_default_values": {},
        "form_token": form.token,
        "expiration_time": form.expires,
    }


def human_input_required(form: Form, content: str) -> dict[str, Any]:
    return {
        "form_id": form.id,
        "node_id": HUMAN.id,
        "node_title": HUMAN.title,
        "form_content": content,
        "inputs": FORM_FIELDS,
        "actions": FORM_ACTIONS,
        "display_in_ui": True,
        "form_token": form.token,
        "resolved_default_values": {},
        "expiration_time": form.expires,
    }


def workflow_paused(run: Run, form: Form, content: str, elapsed: float) -> dict[str, Any]:
    return {
        "workflow_run_id": run.id,
        "paused_nodes": [HUMAN.id],
        "outputs": {},
        "reasons": [pause_reason(form, content)],
        "status": "paused",
        "created_at": int(run.created_at),
        "elapsed_time": elapsed,
        "total_tokens": run.tokens,
        "total_steps": run.steps,
    }


def form_filled(form: Form) -> dict[str, Any]:
    """human_input_form_filled (dify-wire 18g2)."""
    titles = {action["id"]: action["title"] for action in FORM_ACTIONS}
    return {
        "node_id": HUMAN.id,
        "node_title": HUMAN.title,
        "rendered_content": rendered(form),
        "action_id": form.action,
        "action_text": titles.get(form.action, ""),
        "submitted_data": form.answers,
    }


def rendered(form: Form) -> str:
    """The form's text with what was entered."""
    return form.content.replace("{{#$output.comment#}}", str(form.answers.get("comment", "")))


def snapshot(run: Run) -> list[bytes]:
    """What a snapshot tells of a run that is not finished: other key order, fewer fields (dify-wire 18e, 24c)."""
    live = run.live
    if live is None:
        return []
    paused = run.status == "paused" and live.form is not None
    task_id = run.task_id if paused else run.id
    events = [("workflow_started", workflow_started(run, live.inputs, int(run.created_at), "initial", snapshot=True))]
    for index, node_run in enumerate(live.nodes, 1):
        base: dict[str, Any] = {
            "id": node_run.id,
            "node_id": node_run.node.id,
            "node_type": node_run.node.type,
            "title": node_run.node.title,
            "index": index,
            "predecessor_node_id": None,
            "inputs": None,
        }
        tail = {"iteration_id": None, "loop_id": None}
        events.append(("node_started", {**base, "created_at": node_run.started, "extras": {}, **tail}))
        if node_run.finished is not None:
            ended: dict[str, Any] = {
                "process_data": None,
                "outputs": None,
                "status": node_run.status,
                "error": None,
                "elapsed_time": node_run.elapsed,
                "execution_metadata": None,
                "created_at": node_run.started,
                "finished_at": node_run.finished,
                "files": [],
            }
            events.append(("node_finished", {**base, **ended, **tail}))
    if paused and live.form is not None:
        events.append(("human_input_required", human_input_required(live.form, live.form.template)))
        events.append(("workflow_paused", workflow_paused(run, live.form, live.form.template, 0.0)))
    return [
        f"data: {json_of(run.oddity, event, compact)}\n\n".encode()
        for event in (
            {"event": name, "task_id": task_id, "workflow_run_id": run.id, "data": data} for name, data in events
        )
    ]
