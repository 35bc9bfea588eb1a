"""The apps that the simulator serves, by API key: their forms and what their workflows do. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from .inputs import Field
from .wire import derived_id

Inputs = dict[str, Any]
Chunk = tuple[str, str, str]
"""(text, node id, variable) of a text_chunk event."""


_id_of = lru_cache(maxsize=1024)(derived_id)


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a workflow, as the stream names it."""

    id: str
    type: str
    title: str


START = Node("start", "start", "Start")
LLM = Node("llm", "llm", "LLM")
HUMAN = Node("human", "human-input", "Human")
END = Node("end", "end", "Output")


@dataclass(frozen=True, slots=True)
class App:
    """One app. work: the slow node between Start and Output, if any; answer: inputs -> outputs.

    early, late: text chunks sent before the first node_started (a trap of Dify's, dify-wire 02) and during `work`.
    """

    key: str
    name: str
    form: tuple[Field, ...] = ()
    answer: Callable[[Inputs], Inputs] = dict
    early: Callable[[Inputs], list[Chunk]] = lambda _: []
    late: Callable[[Inputs], list[Chunk]] = lambda _: []
    tokens: Callable[[Inputs], int] = lambda _: 0
    work: Node | None = None
    mode: str = "workflow"
    published: bool = True
    enabled: bool = True
    human: bool = False
    description: str = ""
    end: Node = END
    chunks_inside: bool = False  # `early` comes after the first node_started (chatflows, dify-wire 31b)

    @property
    def id(self) -> str:
        """The app's id, as in `sys.app_id`."""
        return _id_of("app", self.key)

    @property
    def workflow_id(self) -> str:
        """The id of the published version."""
        return _id_of("workflow", self.key)


def demo_answer(inputs: Inputs) -> Inputs:
    """The demo's outputs: `{"answer": "Echo: <query>"}`."""
    return {"answer": f"Echo: {inputs['query']}"}


def demo_tokens(inputs: Inputs) -> int:
    """Prompt and completion at the usual four characters a token, with a prompt of 12 tokens around the query."""
    return 12 + len(inputs["query"]) // 4 + len(demo_answer(inputs)["answer"]) // 4


def chat_answer(inputs: Inputs) -> Inputs:
    """A chatflow's outputs: it repeats the message."""
    return {"answer": f"Echo: {inputs['sys.query']}", "files": []}


def chat_chunks(inputs: Inputs) -> list[Chunk]:
    return [("Echo: ", "answer", "answer"), (str(inputs["sys.query"]), "sys", "query")]


def _chunk_text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, dict) and value.get("dify_model_identity"):
        return f"[{value['filename']}]({value['url']})"
    if isinstance(value, list):
        return "\n".join(_chunk_text(item) for item in value)
    return json.dumps(value, ensure_ascii=False, indent=2) if isinstance(value, dict) else str(value)


def _echo_chunks(inputs: Inputs) -> list[Chunk]:
    chunks: list[Chunk] = []
    for variable, value in inputs.items():
        if chunks:
            chunks.append(("\n", "end", "answer"))
        chunks.append((_chunk_text(value), "start", variable))
    return chunks


ECHO_FORM = (
    Field("query", "paragraph", required=True, label="Query"),
    Field("language", "text-input", max_length=48),
    Field("n", "number"),
    Field("tone", "select", options=("formal", "casual", "neutral")),
    Field("flag", "checkbox"),
    Field("meta", "json_object"),
)
FILES_FORM = (Field("doc", "file", required=True), Field("docs", "file-list", max_length=3))
_QUERY = (Field("query", "paragraph", required=True),)

_CATALOGUE = (
    App(
        "app-demo",
        "Demo",
        (Field("query", "paragraph", required=True, label="Question"),),
        demo_answer,
        early=lambda _: [("Echo: ", "end", "answer")],
        late=lambda inputs: [(inputs["query"], "llm", "text")],
        tokens=demo_tokens,
        work=LLM,
    ),
    App("app-echo", "W1 echo", ECHO_FORM, early=_echo_chunks),
    App("app-files", "W5 files", FILES_FORM, early=_echo_chunks),
    App("app-human", "W4 human", _QUERY, human=True),
    App("app-chat", "W7 chatflow", answer=chat_answer, early=chat_chunks, mode="advanced-chat"),
    App("app-unpublished", "W6 unpublished", _QUERY, published=False),
    App("app-disabled", "W1 disabled", _QUERY, enabled=False),
)
APPS: dict[str, App] = {app.key: app for app in _CATALOGUE}
DEFAULT_KEY = "app-demo"
WORKFLOW_VERSION = "2026-11-22 00:21:33.175817"  # a date text, not an id (dify-wire 14)


def describe_parameters(app: App) -> dict[str, Any]:
    """GET /v1/parameters (dify-wire 19)."""
    has_files = any(f.type in ("file", "file-list") for f in app.form)
    upload: dict[str, Any] = {"enabled": has_files}
    if has_files:
        upload |= {
            "allowed_file_types": ["document", "image", "custom"],
            "allowed_file_extensions": [".txt"],
            "allowed_file_upload_methods": ["local_file", "remote_url"],
            "number_limits": 3,
        }
    off = {"enabled": False}
    return {
        "opening_statement": "",
        "suggested_questions": [],
        "suggested_questions_after_answer": off,
        "speech_to_text": off,
        "text_to_speech": {"enabled": False, "voice": "", "language": ""},
        "retriever_resource": off,
        "annotation_reply": off,
        "more_like_this": off,
        "user_input_form": [f.describe() for f in app.form],
        "sensitive_word_avoidance": off,
        "file_upload": upload,
        "system_parameters": {
            "image_file_size_limit": 10,
            "video_file_size_limit": 100,
            "audio_file_size_limit": 50,
            "file_size_limit": 15,
            "workflow_file_upload_limit": 10,
        },
    }


def describe_info(app: App) -> dict[str, Any]:
    """GET /v1/info (dify-wire 19)."""
    return {
        "name": app.name,
        "description": app.description or f"{app.name} app",
        "tags": [],
        "mode": app.mode,
        "author_name": "Admin",
    }
