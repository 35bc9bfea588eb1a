"""`dify-batch auth`: signing in to a server, saying who is, choosing host and workspace, signing out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dify_batch.cli.account import Context, add_common, carry_out
from dify_batch.cli.output import note, present
from dify_batch.cli.parser import Parser, Subparsers, add_command
from dify_batch.errors import AuthError, DifyBatchError, Exit, UsageError
from dify_batch.text import duration

if TYPE_CHECKING:
    from dify_batch.dify.account.device import Code
    from dify_batch.dify.account.hosts import Host

NAME = "auth"
USAGE = "auth login|status|use|logout [options]"
FORMATS = ("text", "json", "yaml")


def add_parser(commands: Subparsers, *, complete: bool) -> None:
    parser = add_command(commands, NAME, "sign in to a server with an account, in place of an app's key")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)
    login = add_command(verbs, "login", "sign in: shows a code and a page, where you approve it", "write")
    add_common(login, FORMATS)
    login.add_argument("--with-token", action="store_true", help="read a token from standard input instead (for CI)")
    login.add_argument("--no-browser", action="store_true", help="open none")
    login.add_argument("--no-keyring", action="store_true", help="keep the token in a private file")
    add_common(add_command(verbs, "status", "who is signed in, where, and until when"), FORMATS)
    use = add_command(verbs, "use", "choose the host, or the workspace, that commands use", "write")
    use.add_argument("name", metavar="HOST|WORKSPACE", help="a host that is signed in to, or a workspace's id or name")
    add_common(use, FORMATS)
    logout = add_command(verbs, "logout", "end the session on the server, and forget the token", "destructive")
    add_common(logout, FORMATS)


def run(given: Mapping[str, Any], whole: Callable[..., Parser]) -> int:
    return carry_out(given, FORMATS, _VERBS[given["verb"]])


class Said:
    """A result that is a sentence for people and an object for machines."""

    def __init__(self, sentence: str, **facts: Any) -> None:
        self._sentence = sentence
        self._facts = facts

    def data(self) -> Any:
        return self._facts

    def text(self, width: int) -> str:
        return self._sentence


async def _login(context: Context) -> int:
    from dify_batch.dify.account.device import sign_in
    from dify_batch.dify.account.session import DEFAULT_HOST, is_demo

    host = context.named_host() or DEFAULT_HOST
    if context.given.get("with_token"):
        return await _login_with_token(context, host)

    def shown(code: Code) -> None:
        note(f"open {code.address} and enter the code {code.user_code} (good for {duration(code.expires_in)})")
        if is_demo(host):
            note("the demo approves it by itself")
        elif not context.given.get("no_browser"):
            _browse(code.address)

    async with context.client(host) as client:
        answer = await sign_in(client, _label(), shown=shown, clock=context.seams.clock)
        context.secret = token = str(answer.get("token") or "")
        shape = await client.shape()
    entry = _entry(answer, context)
    return _keep(context, host, _with_shape(entry, shape), token)


async def _login_with_token(context: Context, host: str) -> int:
    """A token from a pipe, which stands in no argument list. Its kind is asked of the server."""
    from dify_batch.dify.account.session import check_token

    if sys.stdin.isatty():
        note("paste the token, then press Enter:")
    context.secret = token = check_token(sys.stdin.readline())
    async with context.client(host, token) as client:
        account = await client.account()
        shape = await client.shape()
    return _keep(context, host, _with_shape(_entry(account, context), shape), token)


def _entry(answer: Mapping[str, Any], context: Context) -> Host:
    """What is kept of a sign-in, out of the answer with the token or of GET account."""
    from dify_batch.dify.account.hosts import Host, Workspace
    from dify_batch.dify.account.session import kind_of_subject

    account = answer.get("account")
    person = account if isinstance(account, dict) else {}
    spaces = tuple(Workspace.read(each) for each in answer.get("workspaces") or () if isinstance(each, dict))
    default = answer.get("default_workspace_id")
    first = next((each for each in spaces if each.id == default), spaces[0] if len(spaces) == 1 else None)
    return Host(
        kind=kind_of_subject(answer.get("subject_type")),
        email=str(person.get("email") or answer.get("subject_email") or ""),
        workspace=first,
        workspaces=spaces,
        expires_at=str(answer["expires_at"]) if answer.get("expires_at") else None,
        insecure=bool(context.given.get("insecure_http")),
    )


def _with_shape(entry: Host, shape: Any) -> Host:
    from dataclasses import replace

    return replace(entry, shape=shape)


def _keep(context: Context, host: str, entry: Host, token: str) -> int:
    context.tokens.put(host, token)
    context.hosts.change(lambda hosts: hosts.with_host(host, entry))
    if context.tokens.note:
        context.warn(context.tokens.note)
    where = f", in workspace {entry.workspace.name or entry.workspace.id}" if entry.workspace else ""
    until = f", until {entry.expires_at[:16].replace('T', ' ')} UTC" if entry.expires_at else ""
    facts = {"host": host, **entry.as_dict(), "warnings": context.warnings}
    present(Said(f"signed in to {host} as {entry.email or 'yourself'}{where}{until}", **facts), context.form)
    return Exit.OK


def _label() -> str:
    """How the session is called among a person's sessions: a name of our own, since a sign-in under the same name ends
    the one before."""
    import platform

    return f"dify-batch on {platform.node() or 'a computer'}"


def _browse(address: str) -> None:
    """Opens the page that has just been shown, where there is a browser and a person."""
    import contextlib
    import webbrowser

    if sys.stderr.isatty():
        with contextlib.suppress(webbrowser.Error, OSError):
            webbrowser.open(address)


async def _status(context: Context) -> int:
    """Asks the server, so that a token that has ended is told."""
    from dify_batch.dify.account.session import kind_of_subject

    session = context.session()
    async with context.client(
        session.host, session.token.reveal(), shape=session.shape, kind=session.kind, stored=session.stored
    ) as client:
        account = await client.account()
        version = await client.version()
        shape = await client.shape()
    person = account.get("account")
    email = (person or {}).get("email") if isinstance(person, dict) else account.get("subject_email")
    workspace = session.workspace.as_dict() if session.workspace is not None else None
    facts = {
        "host": session.host,
        "version": version.get("version"),
        "edition": version.get("edition"),
        "shape": shape,
        "email": email,
        "kind": kind_of_subject(account.get("subject_type")),
        "workspace": workspace,
        "workspaces": account.get("workspaces") or [],
        "expires_at": session.expires_at,
        "from": "file" if session.stored else "environment",
        "others": [name for name in context.hosts.read().entries if name != session.host],
    }
    present(_Status(facts), context.form)
    return Exit.OK


class _Status:
    def __init__(self, facts: Mapping[str, Any]) -> None:
        self._facts = facts

    def data(self) -> Any:
        return dict(self._facts)

    def text(self, width: int) -> str:
        facts = self._facts
        workspace = facts["workspace"]
        kind = "external single sign-on" if facts["kind"] == "external" else "account"
        lines = [
            ("Host", f"{facts['host']} (Dify {facts['version']}, {facts['edition']})"),
            ("As", f"{facts['email']} ({kind})"),
            ("Workspace", f"{workspace['name']} ({workspace['id']})" if workspace else "none chosen"),
            ("Until", str(facts["expires_at"] or "not known")),
            ("Token from", "DIFY_TOKEN" if facts["from"] == "environment" else "the stored sign-in"),
        ]
        if facts["others"]:
            lines.append(("Also", ", ".join(facts["others"])))
        return "\n".join(f"{name + ':':<12}{value}" for name, value in lines)


async def _use(context: Context) -> int:
    from dataclasses import replace

    from dify_batch.dify.account.hosts import Workspace
    from dify_batch.dify.account.session import read_host

    wanted = str(context.given["name"]).strip()
    hosts = context.hosts.read()
    try:
        name = read_host(wanted, insecure=True)
    except UsageError:
        name = ""
    if name in hosts.entries:
        context.hosts.change(lambda now: replace(now, current=name))
        present(Said(f"commands use {name} now", host=name), context.form)
        return Exit.OK
    session = context.session()
    if not session.stored:
        raise UsageError("with DIFY_TOKEN the workspace is chosen by DIFY_WORKSPACE_ID", code="illegal_argument")
    async with context.client(
        session.host, session.token.reveal(), shape=session.shape, kind=session.kind, stored=True
    ) as client:
        spaces = [Workspace.read(each) for each in await client.workspaces()]
    found = [each for each in spaces if wanted in (each.id, each.name)]
    if len(found) != 1:
        shown = ", ".join(f"{each.name} ({each.id})" for each in spaces)
        many = "several workspaces have" if found else "no host that is signed in to, and no workspace, has"
        raise UsageError(f'{many} the name "{wanted}"', code="illegal_argument", hint=f"workspaces: {shown}")
    context.change_host(session.host, lambda entry: replace(entry, workspace=found[0], workspaces=tuple(spaces)))
    said = f"commands use the workspace {found[0].name} now"
    present(Said(said, host=session.host, workspace=found[0].as_dict()), context.form)
    return Exit.OK


async def _logout(context: Context) -> int:
    """Ends the session on the server, then forgets it here, also where the server does not answer."""
    name = context.named_host() or context.hosts.read().current
    hosts = context.hosts.read()
    host = hosts.entries.get(name or "")
    if name is None or host is None:
        if context.environ.get("DIFY_TOKEN", "").strip():
            raise AuthError(
                "DIFY_TOKEN is of the environment: nothing is stored", code="not_logged_in", hint="unset DIFY_TOKEN"
            )
        from dify_batch.dify.account.session import no_session

        raise no_session(name)
    token, revoked = context.tokens.get(name), False
    if token is not None:
        try:
            async with context.client(name, token, shape=host.shape, kind=host.kind) as client:
                await client.revoke()
            revoked = True
        except AuthError:
            revoked = True  # it had ended already
        except DifyBatchError as error:
            context.warn(f"the server was not told, so the session goes on there until its end: {error.message}")
    context.tokens.remove(name)
    context.hosts.change(lambda now: now.without(name))
    facts = {"host": name, "revoked": revoked, "warnings": context.warnings}
    present(Said(f"signed out of {name}", **facts), context.form)
    return Exit.OK


_VERBS = {"login": _login, "status": _status, "use": _use, "logout": _logout}
