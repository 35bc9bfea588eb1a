"""`dify-batch describe`: all that is known of an app: its inputs, its files, its conversation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dify_batch.cli.account import APP, EXTERNAL, Context, add_common, carry_out
from dify_batch.cli.output import present
from dify_batch.cli.parser import Parser, Subparsers, add_command
from dify_batch.errors import Exit
from dify_batch.text import one_line

NAME = "describe"
USAGE = "describe app|permitted-external-app ID [options]"
FORMATS = ("text", "json", "yaml")


def add_parser(commands: Subparsers, *, complete: bool) -> None:
    parser = add_command(commands, NAME, "an app with its inputs, its files and its conversation")
    nouns = parser.add_subparsers(dest="noun", metavar="WHAT", required=True, parser_class=Parser)
    for noun, what in ((APP, "describe an app of a workspace"), (EXTERNAL, "describe an app of an external sign-in")):
        one = add_command(nouns, noun, what)
        one.add_argument("id", metavar="ID", help="its id")
        one.add_argument("--refresh", action="store_true", help="ask the server, whatever is known")
        add_common(one, FORMATS)


def run(given: Mapping[str, Any], whole: Callable[..., Parser]) -> int:
    return carry_out(given, FORMATS, _describe)


async def _describe(context: Context) -> int:
    noun, app_id = str(context.given["noun"]), str(context.given["id"])
    external = noun == EXTERNAL
    twin = f"describe {APP if external else EXTERNAL} {app_id}"
    async with context.signed_in(external=external, twin=twin) as (session, client):
        found = await context.app(session, client, app_id, external=external, fresh=bool(context.given.get("refresh")))
    present(Description(found, noun), context.form)
    return Exit.OK


class Description:
    """{info, parameters, input_schema}."""

    def __init__(self, found: Mapping[str, Any], noun: str) -> None:
        self._found = found
        self._noun = noun

    def data(self) -> Any:
        return {name: self._found.get(name) for name in ("info", "parameters", "input_schema")}

    def text(self, width: int) -> str:
        info = self._found.get("info") or {}
        parameters = self._found.get("parameters") or {}
        tags = ", ".join(str(tag.get("name")) for tag in info.get("tags") or () if isinstance(tag, dict))
        head = [
            ("Name", info.get("name")),
            ("ID", info.get("id")),
            ("Mode", info.get("mode")),
            ("Description", one_line(str(info.get("description") or ""), max(40, width - 14))),
            ("Author", info.get("author")),
            ("Tags", tags),
            ("Updated", info.get("updated_at")),
            ("API", "on" if info.get("service_api_enabled") else "off"),
        ]
        lines = [f"{name + ':':<13} {value}" for name, value in head if value]
        lines += ["", *_inputs(parameters), *_upload(parameters), *_conversation(parameters, str(info.get("mode")))]
        return "\n".join([*lines, "", f"Run it:       {self._example(info, parameters)}"])

    def _example(self, info: Mapping[str, Any], parameters: Mapping[str, Any]) -> str:
        words = ["dify-batch run", self._noun, str(info.get("id"))]
        if info.get("mode") in ("chat", "agent-chat", "advanced-chat"):
            words.append('"MESSAGE"')
        for kind, body in fields_of(parameters):
            if body.get("required"):
                flag = "--file" if kind in ("file", "file-list") else "--input"
                words.append(f"{flag} {body.get('variable')}=…")
        return " ".join(words)


def fields_of(parameters: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """(type, entry) of each input of the form."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    for entry in parameters.get("user_input_form") or ():
        for kind, body in entry.items() if isinstance(entry, dict) else ():
            if isinstance(body, dict):
                found.append((str(kind), body))
    return found


def _inputs(parameters: Mapping[str, Any]) -> list[str]:
    rows = [("NAME", "TYPE", "REQUIRED", "LIMITS")]
    for kind, body in fields_of(parameters):
        rows.append((str(body.get("variable")), kind, "yes" if body.get("required") else "no", _limits(body)))
    if len(rows) == 1:
        return ["Inputs:       none"]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = ["Inputs:"]
    for row in rows:
        front = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        lines.append(f"  {front}  {row[3]}".rstrip())
    return lines


def _limits(body: Mapping[str, Any]) -> str:
    found = []
    if options := body.get("options"):
        found.append("one of " + ", ".join(map(str, options)))
    if most := body.get("max_length"):
        found.append(f"at most {most}" + ("" if "allowed_file_types" in body else " characters"))
    names = ("allowed_file_types", "allowed_file_extensions", "allowed_file_upload_methods")
    found += [", ".join(map(str, values)) for name in names if (values := body.get(name))]
    return "; ".join(found)


def _upload(parameters: Mapping[str, Any]) -> list[str]:
    upload = parameters.get("file_upload") or {}
    if not upload.get("enabled"):
        return ["File upload:  off"]
    limits = parameters.get("system_parameters") or {}
    parts = [", ".join(map(str, upload.get("allowed_file_types") or ()))]
    if upload.get("number_limits"):
        parts.append(f"at most {upload['number_limits']} files")
    if limits.get("file_size_limit"):
        parts.append(f"{limits['file_size_limit']} MB each")
    return ["File upload:  on (" + "; ".join(part for part in parts if part) + ")"]


def _conversation(parameters: Mapping[str, Any], mode: str) -> list[str]:
    if mode not in ("chat", "agent-chat", "advanced-chat"):
        return []
    features = {
        "suggested questions after each answer": "suggested_questions_after_answer",
        "speech to text": "speech_to_text",
        "text to speech": "text_to_speech",
        "citations": "retriever_resource",
        "annotated replies": "annotation_reply",
        "moderation": "sensitive_word_avoidance",
    }
    on = [said for said, name in features.items() if (parameters.get(name) or {}).get("enabled")]
    lines = [f"Conversation: {', '.join(on) or 'no features'}"]
    if opening := parameters.get("opening_statement"):
        lines.append(f"  opens with: {one_line(str(opening))}")
    lines += [f"  suggests:   {one_line(str(question))}" for question in parameters.get("suggested_questions") or ()]
    return lines
