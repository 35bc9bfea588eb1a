"""Where the course takes a row up again that an earlier invocation left: from what the journal says of it. Pure."""

from __future__ import annotations

from dify_batch.engine.course import Rules, advance
from dify_batch.engine.facts import Absent, Fact, Seen, Sent, Started, run_of
from dify_batch.engine.row import Ask, Impossible, Row, Stage
from dify_batch.engine.slots import looks_own
from dify_batch.engine.steps import STUCK
from dify_batch.ledger.rowstate import Phase, RowState


def resumed(known: RowState, *, may_send: bool, ask: Ask = Ask.NOTHING) -> Row:
    """A row that may have a run: its run is known (KNOWN), or whether there is one is open (LOST).

    `ask`: what --retry asks for a row whose fate was unknown.
    """
    return Row(
        stage=Stage.KNOWN if known.run_id else Stage.LOST,
        sent=Sent(known.user, known.mode, known.sent_at, known.server_at),
        ref=known.ref,
        begun=known.started_at or known.sent_at,
        may_send=may_send,
        ask=ask,
        given_up=known.kind == "unknown" and known.code == STUCK,
        before=True,
        pending=known.phase is Phase.PAUSED,
        recovered=True,
        dead=known.dead,
    )


def may_share(known: RowState) -> bool:
    """Whether other rows may have been sent under its user, too: by what the journal says."""
    return not looks_own(known.user) if known.shared is None else known.shared


def asked_for(known: RowState, *, anyway: bool) -> Ask:
    """What `--retry` (or with `anyway`, `--retry-unknown`) asks for a row of `.retry`: a row that failed is sent like a
    new one; of one whose fate is unknown, what exists is looked at first."""
    if known.kind != "unknown" or not known.user:
        return Ask.NOTHING
    return Ask.ANYWAY if anyway else Ask.CERTAIN


def replay(rules: Rules, facts: list[Fact]) -> Row:
    """The row that an earlier invocation's facts lead to. Each POST begins anew whatever came before it, and a fact
    that an older version wrote in another order is no reason to fail."""
    row = Row()
    for fact in facts:
        if isinstance(fact, Sent):
            row = row._replace(stage=Stage.NEW, ref=None, failure=None)
        elif isinstance(fact, Started | Seen | Absent) and row.sent is not None:
            found = isinstance(fact, Started) and fact.found
            row = row._replace(stage=Stage.LOST if found or isinstance(fact, Absent) else Stage.SENT, ref=None)
            if isinstance(fact, Seen):
                row = row._replace(stage=Stage.KNOWN, ref=run_of(fact.outcome))
        try:
            row, _ = advance(rules, row, fact)
        except Impossible:
            continue
    return row
