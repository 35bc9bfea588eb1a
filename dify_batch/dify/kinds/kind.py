"""The five kinds of app, as one table: how each is asked, in which mode, and what it tells afterwards. Pure.

Facts come from recorded exchanges of a Dify 1.14.2 server; the numbers in brackets name them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

KindName: TypeAlias = Literal["workflow", "chatflow", "chat", "agent", "completion"]

QUERY = "query"
"""The column of the message, unless --query-column names another."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of app.

    Args:
        name: what people call it, as --app-kind takes it. `mode`: Dify's word for it, in GET /info.
        path: of its POST, below the address of the API.
        only: the response mode that loses no answer, and the only one that is used; None: either will do. `why`: what
            is wrong with the other one.
        asks: it is asked with a message, the column `query`.
        lists: its conversations and messages can be listed by their user.
        flows: a workflow runs, with a run id, run detail and events.
    """

    name: str
    mode: str
    path: str
    only: Literal["streaming", "blocking"] | None = None
    why: str = ""
    asks: bool = False
    lists: bool = False
    flows: bool = False

    def request(
        self,
        inputs: Mapping[str, Any],
        *,
        user: str,
        mode: str,
        files: Sequence[Mapping[str, Any]] | None = None,
        message: str = QUERY,
        keep_message: bool = False,
        workflow_id: str | None = None,
    ) -> dict[str, Any]:
        """The body of its POST.

        Args:
            inputs: those of the form, and the message.
            message: the key of the message among them. `keep_message`: it is an input of the form as well.
            workflow_id: the version that is pinned; only a workflow has versions.

        Each row is a conversation of its own. It gets no name: that would be one more call of the model, whose tokens
        stand in no answer [31w, 32w, 34w].
        """
        given = dict(inputs)
        body: dict[str, Any] = {"inputs": given, "response_mode": mode, "user": user}
        if self.asks:
            body["query"] = given[message] if keep_message else given.pop(message, "")
            body["auto_generate_name"] = False
        if files is not None:
            body["files"] = files
        if workflow_id is not None and self.flows:
            body["workflow_id"] = workflow_id
        return body


WORKFLOW = Kind("workflow", "workflow", "/workflows/run", flows=True)
CHATFLOW = Kind(
    "chatflow",
    "advanced-chat",
    "/chat-messages",
    only="streaming",
    why="a blocking answer of a chatflow tells neither its run nor whether the answer is whole, and is lost with the "
    "server process that makes it",
    asks=True,
    lists=True,
    flows=True,
)
CHAT = Kind(
    "chat",
    "chat",
    "/chat-messages",
    only="blocking",
    why="a stream that breaks loses the answer for ever, and it is paid",
    asks=True,
    lists=True,
)
AGENT = Kind(
    "agent",
    "agent-chat",
    "/chat-messages",
    only="streaming",
    why="agents answer in streams only",
    asks=True,
    lists=True,
)
COMPLETION = Kind(
    "completion",
    "completion",
    "/completion-messages",
    only="blocking",
    why="a stream that breaks loses the answer for ever, and it is paid",
)

KINDS: Mapping[str, Kind] = {kind.name: kind for kind in (WORKFLOW, CHATFLOW, CHAT, AGENT, COMPLETION)}
"""By the name that people use."""

_BY_MODE: Mapping[str, Kind] = {kind.mode: kind for kind in KINDS.values()} | {"agent": AGENT}


def kind_of(mode: object) -> Kind | None:
    """The kind that Dify calls so; None for a word that is not known."""
    return _BY_MODE.get(mode) if isinstance(mode, str) else None
