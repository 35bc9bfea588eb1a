"""Apps that talk: chatflows, chats, agents, completions; as recorded (dify-wire 31 to 34), and for the demo. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .apps import App, Chunk, Inputs, Node
from .inputs import Field
from .model import CURRENCY, count_tokens, price_of, speak

ANSWER = Node("answer", "answer", "Answer")
CALL = Node("http", "http-request", "Call")
MODEL = Node("llm", "llm", "LLM")
TALKING = ("advanced-chat", "chat", "agent-chat")
DEMO_KEYS: Mapping[str, str] = {
    "workflow": "app-demo",
    "chatflow": "app-demo-chatflow",
    "chat": "app-demo-chat",
    "agent": "app-demo-agent",
    "completion": "app-demo-completion",
}
"""Kind of app, as people call it -> the key of the demo's app of that kind."""

_TOPIC = Field("topic", "paragraph", required=True)
_CF1_FORM = (_TOPIC, Field("n", "number"), Field("id", "text-input", max_length=256))
_MODEL_FORM = (_TOPIC, Field("lang", "text-input", max_length=48))
_LANGUAGE = Field("language", "text-input", max_length=48, label="Language")


def prompt_of(app: App, inputs: Inputs, query: str) -> str:
    """What an app without workflow asks its model."""
    if app.mode != "completion":
        return query
    first = str(inputs.get(app.form[0].variable) or "") if app.form else ""
    return f"{first} {query}".strip()


def _slept(inputs: Inputs) -> str:
    return f"slept {inputs.get('n') or 0:g}"


def _cf1_early(inputs: Inputs) -> list[Chunk]:
    return [
        ("Q=", "answer", "answer"),
        (str(inputs["sys.query"]), "sys", "query"),
        (" T=", "answer", "answer"),
        (str(inputs["topic"]), "start", "topic"),
        (" R=", "answer", "answer"),
    ]


def _cf1_answer(inputs: Inputs) -> Inputs:
    return {"answer": "".join(text for text, *_ in _cf1_early(inputs)) + _slept(inputs), "files": []}


def _spoken(inputs: Inputs) -> list[Chunk]:
    return [(piece, "llm", "text") for piece in (*speak(str(inputs["sys.query"])).pieces, "", "")]


def _model_answer(inputs: Inputs) -> Inputs:
    return {"answer": "A: " + speak(str(inputs["sys.query"])).text, "files": []}


def model_tokens(inputs: Inputs) -> tuple[int, int]:
    """(of the prompt, of the answer) of a chatflow's model node."""
    query = str(inputs["sys.query"])
    return 3 + count_tokens(query), count_tokens(speak(query).text)


def node_price(tokens: int) -> Inputs:
    """`execution_metadata` of a model node (dify-wire 31.5), as if all tokens were of the prompt."""
    return {"total_tokens": tokens, "total_price": f"{price_of(tokens, 0):f}", "currency": CURRENCY}


def _echo(inputs: Inputs) -> Inputs:
    return {"answer": f"Echo: {inputs['sys.query']}", "files": []}


def _approved(inputs: Inputs) -> Inputs:
    return {"answer": f"approved {inputs['sys.query']}", "files": []}


_CATALOGUE = (
    App("app-cf1", "CF1", _CF1_FORM, _cf1_answer, _cf1_early, lambda i: [(_slept(i), "http", "body")],
        work=CALL, mode="advanced-chat", end=ANSWER, chunks_inside=True),
    App("app-cf3", "CF3", (_TOPIC,), _approved, mode="advanced-chat", human=True, end=ANSWER, chunks_inside=True),
    App("app-cf5", "CF5", (_TOPIC,), _model_answer, lambda _: [("A: ", "answer", "answer")], _spoken,
        lambda i: sum(model_tokens(i)), work=MODEL, mode="advanced-chat", end=ANSWER, chunks_inside=True),
    App("app-cf7", "CF7", (_TOPIC,), mode="advanced-chat", published=False),
    App("app-ch1", "CH1", _MODEL_FORM, mode="chat"),
    App("app-cp1", "CP1", _MODEL_FORM, mode="completion"),
    App("app-ag1", "AG1", _MODEL_FORM, mode="agent-chat"),
    App("app-demo-chatflow", "Demo chatflow", (_LANGUAGE,), _echo,
        lambda _: [("Echo: ", "answer", "answer")], lambda i: [(str(i["sys.query"]), "llm", "text")],
        lambda i: sum(model_tokens(i)), work=MODEL, mode="advanced-chat", end=ANSWER, chunks_inside=True),
    App("app-demo-chat", "Demo chat", (_LANGUAGE,), mode="chat"),
    App("app-demo-agent", "Demo agent", (_LANGUAGE,), mode="agent-chat"),
    App("app-demo-completion", "Demo completion", (Field("query", "paragraph", required=True, label="Text"), _LANGUAGE),
        mode="completion"),
)  # fmt: skip
KINDS: dict[str, App] = {app.key: app for app in _CATALOGUE}


def describe_basic_parameters(app: App) -> dict[str, Any]:
    """GET /v1/parameters of an app without workflow (dify-wire 32o1, 33o1, 34o1)."""
    off = {"enabled": False}
    form = []
    for entry in app.form:
        told: dict[str, Any] = {"default": "", "label": entry.label or entry.variable}
        if entry.max_length is not None:
            told["max_length"] = entry.max_length
        form.append({entry.type: told | {"required": entry.required, "variable": entry.variable}})
    image = {"detail": "high", "enabled": False, "number_limits": 3, "transfer_methods": ["remote_url", "local_file"]}
    return {
        "opening_statement": "",
        "suggested_questions": [],
        "suggested_questions_after_answer": off,
        "speech_to_text": off,
        "text_to_speech": off,
        "retriever_resource": {"enabled": True},
        "annotation_reply": off,
        "more_like_this": off,
        "user_input_form": form,
        "sensitive_word_avoidance": {"configs": [], "enabled": False, "type": ""},
        "file_upload": {"image": image},
        "system_parameters": {
            "image_file_size_limit": 10,
            "video_file_size_limit": 100,
            "audio_file_size_limit": 50,
            "file_size_limit": 15,
            "workflow_file_upload_limit": 10,
        },
    }
