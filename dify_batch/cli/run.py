"""`dify-batch run`: one run of one app, of whatever kind."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dify_batch.cli.account import APP, EXTERNAL, Context, add_common, carry_out
from dify_batch.cli.output import note
from dify_batch.cli.parser import Parser, Subparsers, add_command
from dify_batch.cli.signals import handled
from dify_batch.errors import DifyBatchError, Exit, UsageError

if TYPE_CHECKING:
    from dify_batch.dify.account.answer import RunAnswer
    from dify_batch.dify.account.client import AccountClient
    from dify_batch.dify.account.running import Stop
    from dify_batch.input.form import Form

NAME = "run"
USAGE = "run app|permitted-external-app ID [MESSAGE] [options]"
FORMATS = ("text", "json", "yaml")
TALKS = ("chat", "agent-chat", "advanced-chat")


def add_parser(commands: Subparsers, *, complete: bool) -> None:
    parser = add_command(commands, NAME, "run an app once, and wait for its answer")
    nouns = parser.add_subparsers(dest="noun", metavar="WHAT", required=True, parser_class=Parser)
    for noun, what in ((APP, "run an app of a workspace"), (EXTERNAL, "run an app of an external sign-in")):
        one = add_command(nouns, noun, what, "write")
        one.add_argument("id", metavar="ID", help="its id")
        one.add_argument("message", metavar="MESSAGE", nargs="?", help="what a chat is told; a workflow takes none")
        one.add_argument("--input", action="append", metavar="NAME=VALUE", help="one input; read by the field's type")
        one.add_argument("--inputs", metavar="JSON|@FILE", help="all inputs at once; --input goes before it")
        one.add_argument("--file", action="append", metavar="NAME=PATH|URL", help="a file input; again for a list")
        one.add_argument("--conversation", metavar="ID", help="go on with a conversation")
        one.add_argument("--stream", action="store_true", help="show the text as it arrives, in a pipe too")
        one.add_argument(
            "--retry-on-limit", action="store_true", help="send it again after HTTP 429, which ran nothing"
        )
        add_common(one, FORMATS)


def run(given: Mapping[str, Any], whole: Callable[..., Parser]) -> int:
    return carry_out(given, FORMATS, _run)


async def _run(context: Context) -> int:
    from dify_batch.cli.run_inputs import inputs_of, pairs, read_inputs, unknown_names
    from dify_batch.dify.account.client import RunAsk
    from dify_batch.dify.account.running import Runner, Stop
    from dify_batch.input.form import Form

    given, app_id, noun = context.given, str(context.given["id"]), str(context.given["noun"])
    if given.get("stream") and context.machine:
        raise UsageError(f"--stream and -o {context.form} contradict each other", code="usage_invalid_flag")
    whole, single = read_inputs(given.get("inputs")), pairs(given.get("input") or (), "--input")
    files = pairs(given.get("file") or (), "--file")
    external = noun == EXTERNAL
    twin = f"run {APP if external else EXTERNAL} {app_id}"
    async with context.signed_in(external=external, twin=twin) as (session, client):
        found = await context.app(session, client, app_id, external=external)
        mode = str((found.get("info") or {}).get("mode") or "workflow")
        form = Form.from_parameters(found.get("parameters") or {})
        query = _query(mode, given)
        inputs = inputs_of(form, whole, single, files)
        for warning in unknown_names(form, inputs):
            context.warn(warning)
        sent = await _uploaded(client, app_id, inputs)
        ask = RunAsk(app_id, mode, sent, query, given.get("conversation"), external=external)
        live, stop = _live(context), Stop()
        runner = Runner(client, show=live.show, stop=stop)
        try:
            with stopping(stop, quiet=context.machine):
                answer = await runner.run(ask, on_limit=bool(given.get("retry_on_limit")))
        except DifyBatchError as error:
            raise _explained(context, session.host, app_id, form, error) from None
        return finish(context, session.host, app_id, answer, form, noun=noun, live=live, stop=stop)


def _query(mode: str, given: Mapping[str, Any]) -> str | None:
    """The message. Raises UsageError where the kind of app takes none, or needs one."""
    message = given.get("message")
    if mode == "workflow" and message is not None:
        raise UsageError(
            "a workflow takes no message", code="usage_invalid_flag", hint="give its inputs: --input query=…"
        )
    if mode in ("workflow", "completion") and given.get("conversation"):
        raise UsageError(f"a {mode} has no conversation", code="usage_invalid_flag", hint="leave --conversation out")
    if mode in TALKS and not (message or "").strip():
        hint = 'dify-batch run app ID "what you want to say"'
        raise UsageError("MESSAGE is missing: this app is a chat", code="usage_missing_arg", hint=hint)
    return None if message is None else str(message)


async def _uploaded(client: AccountClient, app_id: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs with their files uploaded. Raises UsageError for one that cannot be read."""
    from dify_batch.input.files import Inputs, find_local, with_uploads

    ids = {}
    for local in find_local(inputs):
        try:
            with local.path.open("rb") as file:
                ids[local] = await client.upload(app_id, local.name, file, local.mime_type)
        except OSError as error:
            raise UsageError(f"{local.path} cannot be read: {error.strerror}", code="usage_invalid_flag") from None
    return with_uploads(Inputs(dict(inputs)), ids).values


def _live(context: Context) -> Any:
    from dify_batch.cli.run_view import Live

    wanted = bool(context.given.get("stream")) or sys.stdout.isatty()
    return Live(on=wanted and not context.machine)


def _explained(context: Context, host: str, app_id: str, form: Form, error: DifyBatchError) -> DifyBatchError:
    """A 422 says that what was known of the app is not true any more: it is forgotten, and the inputs are named."""
    from dify_batch.cli.run_inputs import required_names

    if error.details.get("http_status") == 422:
        context.cache.forget(host, app_id)
        error.hint = required_names(form)
    return error


@contextlib.contextmanager
def stopping(stop: Stop, *, quiet: bool) -> Iterator[None]:
    """The first Ctrl-C stops the run on the server and waits for its end, the second leaves at once."""
    import asyncio

    task = asyncio.current_task()
    assert task is not None

    def received(number: signal.Signals) -> None:
        if stop.asked.is_set():
            task.cancel()
            return
        stop.ask("interrupted" if number is signal.SIGINT else "terminated")
        if not quiet:
            note("stopping the run on the server; press Ctrl-C again to leave at once")

    with handled(("SIGINT", "SIGTERM", "SIGBREAK"), received):
        yield


def finish(
    context: Context,
    host: str,
    app_id: str,
    answer: RunAnswer,
    form: Form | None,
    *,
    noun: str = APP,
    live: Any,
    stop: Stop,
) -> int:
    """Shows how a run stands. Raises DifyBatchError where that is not good."""
    from dify_batch.cli.run_inputs import required_names
    from dify_batch.cli.run_view import RunView, bad_end, go_on_command, resume_command, show_run
    from dify_batch.dify.account.answer import REFUSED
    from dify_batch.dify.account.session import is_demo

    for paused in answer.forms:
        if answer.run_id is not None and paused.token:
            context.cache.remember_form(host, paused.token, answer.run_id)
    if not answer.good or (stop.asked.is_set() and answer.mode in ("chat", "agent-chat", "completion")):
        if live.wrote:
            sys.stdout.write("\n")
        if answer.status == REFUSED:
            context.cache.forget(host, app_id)
        required = required_names(form) if form is not None else ""
        raise bad_end(answer, stopped_by=stop.code if stop.asked.is_set() else None, required=required)
    step = resume_command(app_id, answer) or go_on_command(noun, app_id, answer)
    view = RunView(answer, live=live, warnings=context.warnings, next_step=step)
    if step is not None and answer.status == "paused" and is_demo(host) and not context.machine:
        note("the demo forgets its runs when the command ends; python -m dify_batch.simulator stays")
    show_run(view, context.form, quiet=context.machine, partial=answer.status == "partial-succeeded")
    return Exit.OK
