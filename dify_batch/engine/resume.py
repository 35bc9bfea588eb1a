"""Where the course takes a row up again that an earlier invocation left: from what the journal says of it. Pure."""

from __future__ import annotations

from dify_batch.engine.course import Ask, Row, Stage
from dify_batch.engine.facts import Sent
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
        given_up=known.kind == "unknown" and known.code == "run_stuck",
        before=True,
        pending=known.phase is Phase.PAUSED,
        recovered=True,
    )


def asked_for(known: RowState, *, anyway: bool) -> Ask:
    """What `--retry` (or with `anyway`, `--retry-unknown`) asks for a row of `.retry`: a row that failed is sent like a
    new one; of one whose fate is unknown, what exists is looked at first."""
    if known.kind != "unknown" or not known.user:
        return Ask.NOTHING
    return Ask.ANYWAY if anyway else Ask.CERTAIN
