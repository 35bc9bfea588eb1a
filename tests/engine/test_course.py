"""The course of a row: the tables of the contract, and what must hold of every sequence of facts."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dify_batch.engine.course import PolicyName, Rules, advance
from dify_batch.engine.facts import Answered, Begun, Fact, Gone, NoMoreRows, NotSent, Seen, Sent, Started
from dify_batch.engine.row import EXCUSES, Ask, Impossible, Row, Stage, check
from dify_batch.engine.steps import Follow, GiveUp, Keep, Leave, LookUp, Send, Step, StopBatch, Watch
from dify_batch.outcomes import Failed, Running, Unreachable
from tests.support.courses import (
    OUTCOMES,
    REF,
    SENT,
    SIGHTS,
    VERDICTS,
    facts_at,
    known,
    lost,
    sent,
    step,
)

POLICIES: tuple[PolicyName, ...] = ("strict", "safe", "all")
SAFE, STRICT, ALL = Rules("safe"), Rules("strict"), Rules("all")


# ---------------------------------------------------------------- section 5: what an attempt can come to


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("name", "follows"),
    [
        ("succeeded", Keep),
        ("partial", Keep),
        ("paused", Keep),
        ("stopped", GiveUp),
        ("stopped on the wire", Follow),
        ("rejected", GiveUp),
        ("throttled", Send),
        ("unreachable", Send),
        ("running", Follow),
        ("lost", LookUp),
    ],
)
def test_what_follows_an_answer_whatever_the_policy(name: str, follows: type, policy: PolicyName) -> None:
    assert isinstance(step(Rules(policy), sent(), Answered(OUTCOMES[name])), follows)


def test_a_failed_run_is_repeated_by_all_alone_and_not_for_ever() -> None:
    failed = Answered(OUTCOMES["failed"])
    given_up = GiveUp("failed", "run_failed", "node broke", "run")
    assert [step(rules, sent(), failed) for rules in (STRICT, SAFE)] == [given_up, given_up]
    again, steps = advance(ALL, sent(), failed)
    assert (again.stage, again.retries, again.failure) == (Stage.WAITING, 1, given_up)
    assert isinstance(steps[0], Send)
    assert steps[0].charged
    assert step(ALL, sent(retries=3), failed) == given_up


def test_a_row_that_waits_to_go_again_after_it_failed_has_failed_when_no_more_are_sent() -> None:
    waiting, _ = advance(ALL, sent(), Answered(OUTCOMES["failed"]))
    assert step(ALL, waiting, NoMoreRows()) == GiveUp("failed", "run_failed", "node broke", "run")


@pytest.mark.parametrize("name", ["throttled", "unreachable"])
def test_an_outage_uses_up_no_retries(name: str) -> None:
    again, steps = advance(STRICT, sent(retries=99), Answered(OUTCOMES[name]))
    assert again.retries == 99
    assert isinstance(steps[0], Send)
    assert not steps[0].charged


def test_a_gateways_word_is_an_outage_a_few_times_and_then_about_the_row() -> None:
    refused = Answered(Unreachable("HTTP 405", foreign=True))
    assert step(SAFE, sent(retries=3), refused) == Send(1, None, "HTTP 405", charged=False)
    tired = sent(retries=2, excuses=EXCUSES)
    assert step(SAFE, tired, refused) == Send(1, None, "HTTP 405", charged=True)
    assert step(SAFE, tired, replace(refused, excused=True)) == Send(1, None, "HTTP 405", charged=False)
    assert step(SAFE, sent(retries=3, excuses=EXCUSES), refused) == GiveUp("rejected", "gateway_refused", "HTTP 405")


def test_an_upload_that_the_server_fails_at_is_charged_and_ends() -> None:
    failed = Answered(OUTCOMES["upload failed"])
    again, _ = advance(SAFE, sent(), failed)
    assert again.retries == 1
    assert step(SAFE, sent(retries=3), failed) == GiveUp("failed", "upload_failed", "HTTP 500")


def test_a_fatal_answer_stops_the_batch_and_leaves_the_row() -> None:
    row, steps = advance(SAFE, sent(), Answered(OUTCOMES["fatal"]))
    assert row.stage is Stage.LEFT
    assert [type(one) for one in steps] == [Leave, StopBatch]


# ---------------------------------------------------------------- a known run


@pytest.mark.parametrize(
    ("name", "follows"),
    [
        ("succeeded", Keep),
        ("paused", Keep),
        ("failed", GiveUp),
        ("stopped", GiveUp),
        ("stopped on the wire", Follow),
        ("running", Follow),
        ("unreachable", Follow),
        ("overdue", Watch),
        ("stuck", GiveUp),
        ("no answer, stuck", GiveUp),
    ],
)
def test_what_follows_a_look_at_a_known_run(name: str, follows: type) -> None:
    assert isinstance(step(SAFE, known(), SIGHTS[name]), follows)


def test_a_run_that_is_stuck_or_gone_is_unknown_and_never_sent_again_by_itself() -> None:
    for policy in POLICIES:
        for fact in (SIGHTS["stuck"], Gone(REF)):
            given_up = step(Rules(policy), known(), fact)
            assert isinstance(given_up, GiveUp)
            assert given_up.kind == "unknown"


def test_a_run_that_may_have_ended_well_is_sent_again_only_where_it_may_run_twice() -> None:
    """The empty answer of a chat: nobody can tell whether it is under way, lost, or truly empty."""
    empty = Seen(Running(REF, "no answer is stored", instead="or truly empty"), stuck=True)
    for given_up in (False, True):
        assert isinstance(step(SAFE, known(ask=Ask.CERTAIN, given_up=given_up), empty), GiveUp)
        again = step(SAFE, known(ask=Ask.ANYWAY, given_up=given_up), empty)
        assert isinstance(again, Send)
        assert again.risky
    young = replace(empty, stuck=False)
    assert isinstance(step(SAFE, known(ask=Ask.CERTAIN, given_up=True), young), GiveUp), "it is not waited for again"


def test_a_run_that_the_server_has_forgotten_is_sent_again_only_where_it_may_run_twice() -> None:
    assert isinstance(step(SAFE, known(ask=Ask.CERTAIN), Gone(REF)), GiveUp)
    again = step(SAFE, known(ask=Ask.ANYWAY), Gone(REF))
    assert isinstance(again, Send)
    assert again.risky


def test_retry_sends_a_row_again_whose_run_it_finds_stuck_itself() -> None:
    again, steps = advance(SAFE, known(ask=Ask.CERTAIN), SIGHTS["stuck"])
    assert isinstance(steps[0], Send)
    assert again.ask is Ask.NOTHING, "asked for once, it goes once"
    assert isinstance(step(SAFE, known(ask=Ask.CERTAIN, may_send=False), SIGHTS["stuck"]), GiveUp)


def test_retry_takes_a_run_that_was_given_up_or_sends_it_and_does_not_wait_a_second_time() -> None:
    asked = known(given_up=True, ask=Ask.CERTAIN)
    assert isinstance(step(SAFE, asked, SIGHTS["succeeded"]), Keep)
    assert isinstance(step(SAFE, asked, SIGHTS["running"]), Send)
    assert isinstance(step(SAFE, asked, Gone(REF)), Send)


def test_retry_runs_an_unknown_row_again_once_its_run_turns_out_to_have_failed() -> None:
    found, _ = advance(SAFE, lost(ask=Ask.CERTAIN), VERDICTS["found"])
    again, steps = advance(SAFE, found, SIGHTS["failed"])
    assert isinstance(steps[0], Send)
    assert not steps[0].charged
    posted, _ = advance(SAFE, again, SENT)
    assert isinstance(step(SAFE, posted, Answered(OUTCOMES["failed"])), GiveUp), "and not for ever"


# ---------------------------------------------------------------- section 6: a lost request


@pytest.mark.parametrize(
    ("name", "policy", "follows"),
    [
        ("found", "safe", Follow),
        ("found", "strict", Follow),
        ("absent", "safe", Send),
        ("absent", "all", Send),
        ("absent", "strict", GiveUp),
        ("unproven", "safe", GiveUp),
        ("unproven", "strict", GiveUp),
        ("unproven", "all", Send),
        ("unavailable", "safe", GiveUp),
        ("unavailable", "all", Send),
    ],
)
def test_what_follows_a_look_up(name: str, policy: PolicyName, follows: type) -> None:
    assert isinstance(step(Rules(policy), lost(), VERDICTS[name]), follows)


def test_an_absence_is_charged_unless_the_server_was_at_fault_and_excuses_are_counted() -> None:
    charged, _ = advance(SAFE, lost(), VERDICTS["absent"])
    assert (charged.retries, charged.excuses) == (1, 0)
    excused, _ = advance(SAFE, lost(retries=3), VERDICTS["absent, excused"])
    assert (excused.retries, excused.excuses) == (3, 1)
    assert isinstance(step(SAFE, lost(retries=3), VERDICTS["absent"]), GiveUp)
    assert isinstance(step(SAFE, lost(retries=3, excuses=EXCUSES), VERDICTS["absent, excused"]), GiveUp)


@pytest.mark.parametrize("policy", POLICIES)
def test_retry_sends_an_unknown_row_only_when_it_certainly_never_started(policy: PolicyName) -> None:
    asked = lost(ask=Ask.CERTAIN)
    assert isinstance(step(Rules(policy), asked, VERDICTS["absent"]), Send)
    for name in ("unproven", "unavailable"):
        assert isinstance(step(Rules(policy), asked, VERDICTS[name]), GiveUp)


def test_retry_unknown_sends_what_is_not_found() -> None:
    for name in ("absent", "unproven", "unavailable"):
        assert isinstance(step(SAFE, lost(ask=Ask.ANYWAY), VERDICTS[name]), Send)
    assert isinstance(step(SAFE, lost(ask=Ask.ANYWAY), VERDICTS["found"]), Follow)


def test_a_row_that_must_not_be_sent_is_collected_only() -> None:
    for row in (lost(may_send=False), known(may_send=False)):
        for rules in (SAFE, ALL):
            for fact in facts_at(row).values():
                _, steps = advance(rules, row, fact)
                assert not any(isinstance(one, Send) for one in steps)


# ---------------------------------------------------------------- every sequence of facts


def unsafe(rules: Rules, row: Row, fact: Fact, steps: tuple[Step, ...]) -> str | None:
    """Why a step would send a row that may have a run which is not known to have failed; None if it would not."""
    if not any(isinstance(one, Send) for one in steps):
        return None
    match row.stage:
        case Stage.NEW:
            return None
        case Stage.SENT:
            assert isinstance(fact, Answered)
            no_run = type(fact.outcome).__name__ in ("Throttled", "Unreachable") and row.ref is None
            failed = isinstance(fact.outcome, Failed) and fact.outcome.confirmed and rules.policy == "all"
            return None if no_run or failed else "after an answer that leaves a run possible"
        case Stage.KNOWN:
            seen = isinstance(fact, Seen) and isinstance(fact.outcome, Failed) and fact.outcome.confirmed
            stuck = isinstance(fact, Seen) and fact.stuck
            gone = isinstance(fact, Gone) and row.ask is Ask.ANYWAY
            asked = row.ask is not Ask.NOTHING and (row.given_up or stuck or gone)
            wanted = rules.policy == "all" or row.ask is not Ask.NOTHING
            return None if (seen and wanted) or asked else "while its run is known"
        case Stage.LOST:
            name = type(fact).__name__
            proved = name == "Absent" and (rules.policy != "strict" or row.ask is not Ask.NOTHING)
            wanted = row.ask is Ask.ANYWAY or (rules.policy == "all" and row.ask is Ask.NOTHING)
            return None if proved or wanted else "without a proof"
        case _:
            return "from a stage that ends"


STARTS = {
    "new": Row(),
    "collected": known(before=True),
    "collected, not to be sent": known(before=True, may_send=False),
    "an open intent": lost(before=True),
    "an open intent, not to be sent": lost(before=True, may_send=False),
    "asked for, stuck": known(before=True, ask=Ask.CERTAIN, given_up=True),
    "asked for, unknown": lost(before=True, ask=Ask.CERTAIN),
    "asked for anyway": lost(before=True, ask=Ask.ANYWAY),
}
DEPTH = 6


def enumerate_courses(rules: Rules, start: Row, depth: int) -> Counter[str]:
    """Walks all sequences of facts from a row; counts sequences and steps, and checks each."""
    seen: Counter[str] = Counter()
    rows = {start: 1}  # rows that stand alike go on alike, so each is walked once, with its number of sequences
    for _ in range(depth):
        following: Counter[Row] = Counter()
        for row, ways in rows.items():
            for name, fact in facts_at(row).items():
                after, steps = advance(rules, row, fact)
                check(after)
                assert unsafe(rules, row, fact, steps) is None, (row, name, steps)
                assert not (row.may_send is False and any(isinstance(one, Send) for one in steps)), (row, name)
                if after.stage in (Stage.SETTLED, Stage.LEFT):
                    assert any(isinstance(one, Keep | GiveUp | Leave) for one in steps), (row, name)
                elif row.stage is Stage.LOST or row.stage is Stage.KNOWN:
                    assert steps or after.stage is Stage.SENT, (row, name, "nothing would happen to it any more")
                seen["sequences"] += ways
                for one in steps:
                    seen[type(one).__name__] += 1
                following[after] += ways
        rows = following
    return seen


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("start", STARTS, ids=str)
def test_no_sequence_of_facts_sends_a_row_that_may_have_a_run_and_none_loses_it(start: str, policy: PolicyName) -> None:
    seen = enumerate_courses(Rules(policy, max_retries=2), STARTS[start], DEPTH)
    assert seen["sequences"] > (1_000 if start == "new" else 10)


def test_repetitions_that_are_charged_come_to_an_end() -> None:
    row, posts = Row(), 0
    while row.stage is not Stage.SETTLED:
        row, _ = advance(SAFE, row, SENT)
        posts += 1
        row, _ = advance(SAFE, row, Answered(OUTCOMES["lost"], excused=True))
        if row.stage is Stage.LOST:
            row, _ = advance(SAFE, row, VERDICTS["absent, excused"])
    assert posts <= 1 + SAFE.max_retries + EXCUSES


@pytest.mark.parametrize("start", STARTS, ids=str)
def test_a_fact_that_cannot_come_is_refused_and_leaves_the_row_as_it_was(start: str) -> None:
    row = STARTS[start]
    if row.stage is not Stage.SENT:
        with pytest.raises(Impossible):
            advance(SAFE, row, Answered(OUTCOMES["succeeded"]))


class Course(RuleBasedStateMachine):
    """One row under any facts in any order, as far as they can come."""

    @initialize(start=st.sampled_from(sorted(STARTS)), policy=st.sampled_from(POLICIES), retries=st.integers(0, 3))
    def begin(self, start: str, policy: PolicyName, retries: int) -> None:
        self.how = Rules(policy, retries)
        self.row = STARTS[start]
        self.ended: list[Step] = []
        _, steps = advance(self.how, self.row, Begun())
        assert steps

    @precondition(lambda self: bool(facts_at(self.row)))
    @rule(data=st.data())
    def fact(self, data: st.DataObject) -> None:
        facts = facts_at(self.row)
        name = data.draw(st.sampled_from(sorted(facts)))
        after, steps = advance(self.how, self.row, facts[name])
        assert unsafe(self.how, self.row, facts[name], steps) is None
        self.ended += [one for one in steps if isinstance(one, Keep | GiveUp | Leave)]
        self.row = after

    @precondition(lambda self: self.row.stage in (Stage.NEW, Stage.WAITING, Stage.SENT) and self.row.ref is None)
    @rule()
    def not_sent(self) -> None:
        self.row, steps = advance(self.how, self.row, NotSent("the batch stopped"))
        self.ended += [one for one in steps if isinstance(one, Keep | GiveUp | Leave)]

    @precondition(lambda self: bool(self.ended))
    @rule()
    def nothing_comes_after_the_end(self) -> None:
        assert facts_at(self.row) == {}

    @invariant()
    def holds(self) -> None:
        check(self.row)
        assert len(self.ended) == (self.row.stage in (Stage.SETTLED, Stage.LEFT)), "a row ends once"


TestCourse = Course.TestCase
TestCourse.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)


def test_what_a_sent_row_is_remembered_by_survives_until_it_goes_again() -> None:
    row, _ = advance(SAFE, sent(), Started(REF, 5.0))
    row, _ = advance(SAFE, row, Answered(Running(REF, "cut")))
    assert (row.sent, row.ref, row.begun) == (SENT, REF, 5.0)
    again, _ = advance(SAFE, Row(retries=1), Sent("other", "blocking", 6.0))
    assert (again.ref, again.retries, again.sent and again.sent.user) == (None, 1, "other")
