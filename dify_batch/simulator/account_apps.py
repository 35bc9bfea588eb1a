"""What an account finds on the simulated Dify: three workspaces with 250 apps of every kind, and how one is described.
Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from .apps import App, chat_answer, chat_chunks, describe_parameters
from .inputs import Field
from .wire import derived_id

MODES = ("workflow", "advanced-chat", "chat", "agent-chat", "completion")
APPS = 250
CREATED = 1_795_306_893  # seconds since 1970: when the oldest app was made
_MINUTE = 60
_TAGS = ("batch", "sales", "support")
_WORDS = ("Summary", "Translate", "Classify", "Extract", "Answer", "Rewrite", "Review", "Route", "Check", "Plan")
_TITLES = {
    "workflow": "workflow",
    "advanced-chat": "chatflow",
    "chat": "chat",
    "agent-chat": "agent",
    "completion": "completion",
}


@dataclass(frozen=True, slots=True)
class Workspace:
    id: str
    name: str
    role: str

    def describe(self, current: bool) -> dict[str, Any]:
        """An entry of GET workspaces (dify-wire 27e)."""
        return {"id": self.id, "name": self.name, "role": self.role, "status": "normal", "current": current}

    def brief(self) -> dict[str, Any]:
        """What a sign-in tells of it (dify-wire 27c)."""
        return {"id": self.id, "name": self.name, "role": self.role}


WORKSPACES = (
    Workspace(derived_id("workspace", "1"), "Admin's Workspace", "owner"),
    Workspace(derived_id("workspace", "2"), "Research", "editor"),
    Workspace(derived_id("workspace", "3"), "Support desk", "normal"),
)


@dataclass(frozen=True, slots=True)
class Listed:
    """An app as the account surface knows it. updated: seconds since 1970."""

    app: App
    workspace: Workspace
    updated: float
    tags: tuple[str, ...] = ()
    external: bool = False  # whether people of an external single sign-on may run it

    @property
    def updated_at(self) -> str:
        return datetime.fromtimestamp(self.updated, UTC).replace(tzinfo=None).isoformat()

    def row(self) -> dict[str, Any]:
        """An entry of GET apps (dify-wire 27f)."""
        return {
            "id": self.app.id,
            "name": self.app.name,
            "description": description(self.app),
            "mode": self.app.mode,
            "tags": [{"name": tag} for tag in self.tags],
            "updated_at": self.updated_at,
            "created_by_name": "Admin",
            "workspace_id": self.workspace.id,
            "workspace_name": self.workspace.name,
        }

    def info(self) -> dict[str, Any]:
        """`info` of an app's description (dify-wire 27g)."""
        return {
            "id": self.app.id,
            "name": self.app.name,
            "description": description(self.app),
            "mode": self.app.mode,
            "author": "Admin",
            "tags": [{"name": tag} for tag in self.tags],
            "updated_at": self.updated_at,
            "service_api_enabled": self.app.enabled,
            "is_agent": self.app.mode == "agent-chat",
        }


def description(app: App) -> str:
    return app.description or f"{app.name} app"


def parameters(app: App) -> dict[str, Any]:
    """`parameters` of an app's description; an unpublished one has few (dify-wire 27g5)."""
    if not app.published:
        return {
            "opening_statement": None,
            "suggested_questions": [],
            "user_input_form": [],
            "file_upload": None,
            "system_parameters": {},
        }
    found = describe_parameters(app)
    if app.mode in ("chat", "agent-chat", "advanced-chat"):
        found["opening_statement"] = "Hello! What do you want to know?"
        found["suggested_questions"] = ["What is Dify?"]
    return found


def input_schema(app: App) -> dict[str, Any]:
    """`input_schema`: a JSON schema without check boxes and JSON objects, as the real one is (dify-wire 27g)."""
    schema = "https://json-schema.org/draft/2020-12/schema"
    if not app.published:
        return {"$schema": schema, "type": "object", "properties": {}, "required": []}
    fields = {f.variable: entry for f in app.form if (entry := _schema_of(f)) is not None}
    inputs: dict[str, Any] = {
        "type": "object",
        "properties": fields,
        "required": [f.variable for f in app.form if f.required and f.variable in fields],
        "additionalProperties": False,
    }
    properties, required = {"inputs": inputs}, ["inputs"]
    if app.mode in ("chat", "agent-chat", "advanced-chat"):
        properties, required = {"query": {"type": "string", "minLength": 1}, **properties}, ["query", *required]
    return {"$schema": schema, "type": "object", "properties": properties, "required": required}


_FILE: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "transfer_method": {"type": "string"},
        "url": {"type": "string"},
        "upload_file_id": {"type": "string"},
    },
    "additionalProperties": True,
}


def _schema_of(field: Field) -> dict[str, Any] | None:
    title = field.label or field.variable
    match field.type:
        case "paragraph" | "text-input":
            limit = {} if field.max_length is None else {"maxLength": field.max_length}
            return {"type": "string", "title": title, **limit}
        case "number":
            return {"type": "number", "title": title}
        case "select":
            return {"type": "string", "title": title, "enum": list(field.options)}
        case "file":
            return {**_FILE, "title": title}
        case "file-list":
            return {"type": "array", "items": dict(_FILE), "title": title}
    return None


def catalogue(apps: Mapping[str, App]) -> tuple[Listed, ...]:
    """The 250 apps, newest change first: those with a key in the first workspace, and made ones in all three."""
    known = [app for app in apps.values() if not app.key.startswith("account-")]
    made = [_made(number) for number in range(APPS - len(known))]
    listed = []
    for number, app in enumerate((*known, *made)):
        workspace = WORKSPACES[0] if number < len(known) else WORKSPACES[number % len(WORKSPACES)]
        tags = ("batch",) if app.name == "W1 echo" else (_TAGS[number % 3],) if number % 5 == 4 else ()
        updated = CREATED + (APPS - number) * _MINUTE
        listed.append(Listed(app, workspace, updated, tags, external=app.enabled and app.published and number < 40))
    return tuple(listed)


def _made(number: int) -> App:
    mode = MODES[number % len(MODES)]
    name = f"{_WORDS[number // len(MODES) % len(_WORDS)]} {_TITLES[mode]} {number + 1}"
    form = [Field("topic", "text-input", max_length=48, label="Topic")]
    if mode == "workflow":
        form.insert(0, Field("query", "paragraph", required=True, label="Query"))
    chatflow = mode == "advanced-chat"
    return App(
        f"account-{number + 1}",
        name,
        tuple(form),
        answer=chat_answer if chatflow else dict,
        early=chat_chunks if chatflow else lambda _: [],
        mode=mode,
        description=f"{name}: made up, to look around in. It repeats what it is given.",
    )
