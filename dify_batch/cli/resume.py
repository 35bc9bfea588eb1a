"""`dify-batch resume`: answers the form of a paused run, and follows the run to its end."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dify_batch.cli.account import APP, Context, add_common, carry_out
from dify_batch.cli.output import note, present
from dify_batch.cli.parser import Parser, Subparsers, add_command
from dify_batch.errors import DifyBatchError, Exit, UsageError

if TYPE_CHECKING:
    from dify_batch.dify.account.answer import RunAnswer
    from dify_batch.dify.account.client import AccountClient
    from dify_batch.dify.account.running import Runner
    from dify_batch.outcomes import PausedForm

NAME = "resume"
USAGE = "resume app ID RUN|FORM [--action A] [--input NAME=VALUE]… [options]"
FORMATS = ("text", "json", "yaml")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_AGAIN = 10
"""Looks at a run that still tells of the form that has just been answered."""


def add_parser(commands: Subparsers, *, complete: bool) -> None:
    parser = add_command(commands, NAME, "show the form of a paused run, or answer it and wait for the run's end")
    nouns = parser.add_subparsers(dest="noun", metavar="WHAT", required=True, parser_class=Parser)
    one = add_command(nouns, APP, "a run of an app; without --action its form is shown", "write")
    one.add_argument("id", metavar="ID", help="the app's id")
    one.add_argument("which", metavar="RUN|FORM", help="the id of the run, or the token of its form")
    one.add_argument("--action", metavar="ACTION", help="one of the form's actions")
    one.add_argument("--input", action="append", metavar="NAME=VALUE", help="one input of the form")
    one.add_argument("--stream", action="store_true", help="show the text as it arrives, in a pipe too")
    add_common(one, FORMATS)


def run(given: Mapping[str, Any], whole: Callable[..., Parser]) -> int:
    return carry_out(given, FORMATS, _resume)


async def _resume(context: Context) -> int:
    from dify_batch.cli.run import _live, finish, stopping
    from dify_batch.cli.run_inputs import pairs
    from dify_batch.dify.account.running import Runner, Stop

    given, app_id, which = context.given, str(context.given["id"]), str(context.given["which"])
    inputs = dict(pairs(given.get("input") or (), "--input"))
    session = context.session()
    external = session.kind == "external"
    async with context.signed_in(external=external, twin="") as (session, client):
        found = await context.app(session, client, app_id, external=external)
        mode = str((found.get("info") or {}).get("mode") or "workflow")
        live, stop = _live(context), Stop()
        runner = Runner(client, show=live.show, stop=stop)
        run_id = which if _UUID.fullmatch(which) else context.cache.run_of_form(session.host, which)
        token, paused = which, None
        if _UUID.fullmatch(which):
            paused = await runner.follow(app_id, mode, which)
            if paused.status != "paused" or not paused.forms or not paused.forms[0].token:
                return finish(context, session.host, app_id, paused, None, live=live, stop=stop)
            token = paused.forms[0].token
        form = await _form(client, app_id, token)
        if given.get("action") is None:
            present(FormView(form, app_id, which), context.form)
            if not context.machine:
                note(f"answer it: {_answer_command(form, app_id, which)}")
            return Exit.OK
        _check_action(str(given["action"]), form)
        await client.submit(app_id, token, str(given["action"]), _complete(inputs, form))
        if run_id is None:
            raise DifyBatchError(
                "the form is answered; which run it belongs to is not known here, so its end cannot be shown",
                code="run_unknown",
                hint=f"dify-batch resume app {app_id} RUN shows it, with the run's id",
            )
        with stopping(stop, quiet=context.machine):
            answer = await _end(runner, app_id, mode, run_id, token)
        return finish(context, session.host, app_id, answer, None, live=live, stop=stop)


async def _form(client: AccountClient, app_id: str, token: str) -> Mapping[str, Any]:
    form = await client.form(app_id, token)
    return {"form_token": token, **form}


def _actions(form: Mapping[str, Any]) -> list[str]:
    return [str(each.get("id")) for each in form.get("user_actions") or () if isinstance(each, dict)]


def _fields(form: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [each for each in form.get("inputs") or () if isinstance(each, dict)]


def _check_action(action: str, form: Mapping[str, Any]) -> None:
    known = _actions(form)
    if action not in known:
        raise UsageError(
            f'--action: the form has no "{action}"', code="usage_invalid_flag", hint=f"one of {', '.join(known)}"
        )


def _complete(inputs: Mapping[str, str], form: Mapping[str, Any]) -> dict[str, str]:
    """What was typed, and the form's own values for what was not. Raises UsageError for an input that it has not."""
    fields = {str(each.get("output_variable_name")): each for each in _fields(form)}
    strange = [name for name in inputs if name not in fields]
    if strange:
        raise UsageError(
            f'--input: the form has no "{strange[0]}"',
            code="usage_invalid_flag",
            hint=f"it has {', '.join(fields) or 'none'}",
        )
    resolved = form.get("resolved_default_values") or {}
    for name, each in fields.items():
        default = each.get("default")
        value = resolved.get(name, default.get("value") if isinstance(default, dict) else None)
        if name not in inputs and value is not None:
            inputs = {**inputs, name: str(value)}
    return dict(inputs)


async def _end(runner: Runner, app_id: str, mode: str, run_id: str, token: str) -> RunAnswer:
    """The run's end, or its next pause: right after the answer the server can still tell of the same form."""
    from tenacity import AsyncRetrying, retry_if_result, stop_after_attempt, wait_fixed

    from dify_batch import backoff

    def waits_for_it_still(answer: RunAnswer) -> bool:
        return answer.status == "paused" and any(form.token == token for form in answer.forms)

    following = AsyncRetrying(
        retry=retry_if_result(waits_for_it_still),
        stop=stop_after_attempt(_AGAIN + 1),
        wait=wait_fixed(0.5),
        sleep=backoff.pause,
        retry_error_callback=backoff.last,
    )
    answer: RunAnswer = await following(runner.follow, app_id, mode, run_id)
    return answer


class FormView:
    """A form that waits."""

    def __init__(self, form: Mapping[str, Any], app_id: str, which: str) -> None:
        self._form = form
        self._app_id = app_id
        self._which = which

    def data(self) -> Any:
        return {"status": "paused", **self._form}

    def text(self, width: int) -> str:
        from dify_batch.cli.run_view import form_text

        return form_text(self._paused())

    def _paused(self) -> PausedForm:
        from dify_batch.outcomes import PausedForm

        expires = self._form.get("expiration_time")
        return PausedForm(
            token=str(self._form.get("form_token")),
            node=None,
            content=str(self._form.get("form_content") or ""),
            actions=tuple(_actions(self._form)),
            inputs=tuple(str(each.get("output_variable_name")) for each in _fields(self._form)),
            expires_at=expires if isinstance(expires, int) else None,
        )


def _answer_command(form: Mapping[str, Any], app_id: str, which: str) -> str:
    words = ["dify-batch", "resume", "app", app_id, which, "--action", (_actions(form) or ["ACTION"])[0]]
    for each in _fields(form):
        words += ["--input", f"{each.get('output_variable_name')}=…"]
    return shlex.join(words)
