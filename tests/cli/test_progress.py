"""What a person sees: lines, bar and summary."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dify_batch.cli import progress, progress_text
from dify_batch.cli.progress import Live, Plain, Silent
from dify_batch.cli.progress_text import plain_line, summary_text
from dify_batch.cli.snapshot import (
    RATE_WINDOW,
    Asked,
    FailureKind,
    FailureKinds,
    Figures,
    RecentRate,
    Snapshot,
    limited_by,
    snapshot,
)
from dify_batch.summary import Stats, Summary
from dify_batch.usage import Use
from tests.support.clocks import GivenClock

HALF = Snapshot(
    done=120, finished=123, to_run=2000, failed=3, in_flight=20, limit=20, tokens=52310, rate=4.1
)  # fmt: skip


class Terminal(io.TextIOWrapper):
    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding)

    def isatty(self) -> bool:
        return True


def test_the_line_of_the_contract() -> None:
    assert plain_line(HALF, "12:00:05") == (
        "12:00:05 120/2000 done, 3 failed, 20 in flight, 4.1 rows/s, about 8 min left, 52,310 tokens"
    )


def test_a_line_before_and_after_anything_is_known() -> None:
    none = Snapshot(done=0, to_run=0, failed=0, in_flight=0, limit=0, tokens=0)
    assert plain_line(none, "12:00:05") == "12:00:05 starting"
    collecting = Snapshot(done=0, to_run=0, failed=0, in_flight=4, limit=5, tokens=0)
    assert plain_line(collecting, "12:00:05") == "12:00:05 collecting 4 runs of before"
    checking = Snapshot(0, 0, 0, 0, 0, 0, state="checking data.csv")
    assert plain_line(checking, "12:00:05") == "12:00:05 checking data.csv"
    begun = Snapshot(0, 10, 0, 5, 5, 0)
    assert plain_line(begun, "12:00:05") == "12:00:05 0/10 done, 0 failed, 5 in flight"
    ended = Snapshot(10, 10, 0, 0, 5, 0, rate=1.0, finished=10)
    assert plain_line(ended, "12:00:05") == "12:00:05 10/10 done, 0 failed, 0 in flight, 1.0 rows/s"


def test_a_line_tells_of_an_outage_and_of_what_is_unusual() -> None:
    snap = Snapshot(5, 10, 1, 2, 5, 0, unknown=2, paused=1, dead=3, state="waiting for the server: refused")
    assert plain_line(snap, "t") == (
        "t 5/10 done, 1 failed, 2 unknown, 1 paused, 3 probably dead, 2 in flight; waiting for the server: refused"
    )


def test_rows_that_are_looked_up_are_not_called_0_in_flight() -> None:
    snap = Snapshot(0, 3, 0, 0, 5, 0, looking=3, state="looking up 3 rows whose answer was lost")
    assert plain_line(snap, "t") == ("t 0/3 done, 0 failed, 3 being looked up; looking up 3 rows whose answer was lost")
    others = Snapshot(0, 9, 0, 2, 5, 0, looking=3)
    assert plain_line(others, "t") == "t 0/9 done, 0 failed, 2 in flight, 3 being looked up"


@pytest.mark.parametrize(("rate", "text"), [(4.12, "4.1 rows/s"), (0.5, "30.0 rows/min"), (0.01, "36.0 rows/h")])
def test_rates(rate: float, text: str) -> None:
    assert progress_text.rate_text(rate) == text


def test_the_rate_is_that_of_the_last_five_minutes() -> None:
    rate = RecentRate()
    assert rate.sample(0.0, 0) is None
    assert rate.sample(10.0, 0) is None
    assert rate.sample(20.0, 40) == 2.0
    for second in range(21, 400):
        last = rate.sample(float(second), 40 + (second - 20) * 5)
    assert last == pytest.approx(5.0)


def test_the_rate_keeps_few_samples() -> None:
    rate = RecentRate()
    for tick in range(100_000):
        rate.sample(tick / 50, tick)
    assert len(rate._samples) <= RATE_WINDOW + 3


def test_text_of_a_server_cannot_move_the_cursor() -> None:
    stats = Stats()
    stats.state = "waiting\x1b[2J\r\nnow"
    snap = snapshot(stats)
    assert snap.state == "waiting now"
    (line,) = progress_text.failure_lines([FailureKind(1, "run_failed", "a\nb\x1b[2J " + "x" * 500)])
    assert line.startswith("1 x run_failed: a b xxx")
    assert line.endswith("x…")
    assert len(line) < 250


def test_plain_lines_come_after_ten_seconds_and_then_every_thirty() -> None:
    now = 0.0
    lines: list[str] = []
    display = Plain(lines.append, GivenClock(lambda: now))
    stats, at = Stats(to_run=100, limit=5), []
    for second in range(121):
        now, stats.finished, before = float(second), second // 2, len(lines)
        stats.success = stats.finished
        display.show(stats)
        at += [second] if len(lines) > before else []
    assert at == [10, 40, 70, 100]
    assert lines[1].split(" ", 1)[1].startswith("20/100 done, 0 failed, 0 in flight, 30.0 rows/min, about 3 min left")


def drawn(snap: Snapshot, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, no_color=True)
    with console.capture() as captured:
        console.print(progress.render(snap, width))
    return captured.get()


def test_the_live_display_shows_the_same_figures() -> None:
    text = drawn(HALF)
    assert "120/2,000 done  6%" in text
    assert "3 failed, 20 of 20 in flight, 4.1 rows/s, about 8 min left, 52,310 tokens" in text


def test_the_live_display_shows_markup_as_it_is() -> None:
    snap = Snapshot(1, 2, 1, 0, 5, 0, state="waiting [bold]",
                    failures=(FailureKind(3, "run_failed", "[red]no[/red] :smile:"),))  # fmt: skip
    text = drawn(snap)
    assert "waiting [bold]" in text
    assert "3 x run_failed: [red]no[/red] :smile:" in text


def test_no_line_reaches_the_right_edge_where_an_echo_would_wrap() -> None:
    snap = Snapshot(1, 2, 1, 0, 5, 10**12, state="s" * 300, failures=(FailureKind(1, "c", "f" * 300),))
    for width in (30, 60, 100):
        lines = drawn(snap, width).splitlines()
        assert len(lines) == (6 if width == 30 else 4)
        assert max(map(len, lines)) <= width - progress.ECHO_WIDTH


def test_at_sixty_columns_nothing_of_the_figures_is_cut_off() -> None:
    snap = Snapshot(61, 300, 8, 9, 20, 123456, unknown=2, paused=1, rate=4.0, finished=72)
    lines = drawn(snap, 60).splitlines()[1:]
    assert lines == [
        "8 failed, 2 unknown, 1 paused, 9 of 20 in flight,",
        "4.0 rows/s, about 57 s left, 123,456 tokens",
    ]


def test_done_is_what_has_a_result() -> None:
    snap = snapshot(Stats(to_run=300, success=50, partial_success=11, failed=8, unknown=1, finished=70), rate=1.0)
    assert plain_line(snap, "t").startswith("t 61/300 done, 8 failed, 1 unknown, ")
    assert "61/300 done  20%" in drawn(snap)
    assert snap.seconds_left == 230


def test_while_the_server_is_away_the_state_and_its_length_stand_for_rate_and_end() -> None:
    now = 0.0
    lines: list[str] = []
    display = Plain(lines.append, GivenClock(lambda: now))
    stats = Stats(to_run=100, limit=5)
    for second in range(200):
        now = float(second)
        stats.finished = stats.success = min(second, 50)
        if second >= 50:
            stats.state = f"waiting for the server: {'refused' if second % 2 else 'no answer'}"
        display.show(stats)
    words = [line.split(" ", 1)[1] for line in lines]
    assert "1.0 rows/s" in words[1]
    assert words[2] == "50/100 done, 0 failed, 0 in flight; waiting for the server (20 s): no answer"
    assert words[5] == "50/100 done, 0 failed, 0 in flight; waiting for the server (2 min): no answer"
    stats.state = ""
    display.show(stats)
    assert display._figures.take(stats).state_for == 0


@pytest.mark.parametrize(
    ("stats", "asked", "limit"),
    [
        ({"limit": 9, "in_flight": 9}, Asked(20), "the server"),
        ({"limit": 9, "in_flight": 9}, Asked(9), "--concurrency"),
        ({"limit": 9, "in_flight": 9}, Asked(0), ""),
        ({"limit": 0, "in_flight": 0}, Asked(20), ""),
        ({"limit": 9, "in_flight": 2}, Asked(9, rate=1.0), "--rate"),
        ({"limit": 9, "in_flight": 2}, Asked(9, wait=1.0), "--wait"),
        ({"limit": 9, "in_flight": 2}, Asked(9), ""),
        ({"limit": 9, "in_flight": 9}, Asked(9, rate=1.0), "--concurrency"),
        ({"limit": 9, "in_flight": 2, "budget_waits": True}, Asked(9, rate=1.0), "the budget"),
        ({"limit": 9, "in_flight": 9, "state": "waiting for the server"}, Asked(20), ""),
        ({"limit": 9, "in_flight": 9, "finished": 91}, Asked(9), ""),
    ],
)
def test_what_limits_the_speed_is_named(stats: dict[str, Any], asked: Asked, limit: str) -> None:
    assert limited_by(Stats(to_run=100, **stats), asked) == limit
    snap = Snapshot(0, 10, 0, 2, 9, 0, limited_by=limit)
    shown = f"2 of 9 in flight{f' (limited by {limit})' if limit else ''}\n"
    assert shown in drawn(snap)


def test_tokens_cost_and_mode_stand_at_the_end() -> None:
    stats = Stats(to_run=100, in_flight=2, limit=5, total_tokens=52310)
    for price, currency in (("0.25", "USD"), ("0.001", "USD"), ("1", "EUR")):
        stats.used.add(Use(10, Decimal(price), currency))
    lines: list[str] = []
    now = 0.0
    display = Plain(lines.append, GivenClock(lambda: now), asked=Asked(5, mode="auto"))
    now = 10.0
    display.show(stats)
    assert lines[0].endswith("2 in flight, 52,310 tokens, 1.00 EUR + 0.251 USD, auto")
    stats.mode, now = "blocking", 40.0
    display.show(stats)
    assert lines[1].endswith(", blocking")
    assert stats.summary().total_price == {"EUR": "1", "USD": "0.251"}


def test_failures_that_repeat_are_counted_and_the_last_kinds_stay_in_sight() -> None:
    failures: Counter[tuple[str, str]] = Counter()
    kinds = FailureKinds()
    assert kinds.update(failures) == []
    for number in range(7):
        failures["code", f"kind {chr(97 + number)}"] += 1
    failures["run_failed", "row 17: limit of 200 reached"] += 1
    failures["run_failed", "row 18: limit of 200 reached"] += 2
    found = kinds.update(failures)
    assert len(found) == 8
    assert found[-1] == FailureKind(3, "run_failed", "row …: limit of … reached")
    failures["code", "kind a"] += 1
    assert kinds.update(failures)[-1] == FailureKind(2, "code", "kind a")
    figures = Figures(lambda: 0.0)
    stats = Stats(to_run=10, failures=failures)
    assert len(figures.take(stats).failures) == 5
    assert drawn(figures.take(stats)).count(" x ") == 5


def test_plain_lines_tell_each_kind_of_failure_when_it_has_grown() -> None:
    lines: list[str] = []
    now = 0.0
    display = Plain(lines.append, GivenClock(lambda: now))
    stats = Stats(to_run=100, limit=5)
    for moment, failing in ((10.0, 3), (40.0, 0), (70.0, 1)):
        now = moment
        stats.failures["run_failed", "no"] += failing
        display.show(stats)
    assert [line.strip() for line in lines if " x " in line] == ["3 x run_failed: no", "4 x run_failed: no"]


def test_before_rows_are_known_the_live_display_shows_the_state() -> None:
    assert drawn(Snapshot(0, 0, 0, 0, 0, 0)).split() == ["starting"]
    assert drawn(Snapshot(0, 0, 0, 0, 0, 0, state="checking")).split() == ["checking"]


def test_lines_of_the_log_appear_above_the_bar_and_the_bar_goes_at_the_end() -> None:
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True, no_color=True)
    display = Live(console, GivenClock(lambda: 0.0))
    display.show(Stats(to_run=10, success=4, finished=4, limit=5))
    display.write("WARNING [row c-1] [red]x[/red] " + "long " * 30)
    display.close()
    text = file.getvalue()
    assert "4/10 done" in text
    assert "WARNING [row c-1] [red]x[/red] long" in text
    assert text.rindex("\x1b[2K") > text.rindex("4/10 done")


class Gone(io.StringIO):
    def write(self, _: str) -> int:
        raise BrokenPipeError


def test_a_terminal_that_has_gone_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", Gone())
    progress.write_line("nobody reads this")
    monkeypatch.setattr("sys.stderr", None)
    progress.write_line("nor this")


@pytest.mark.parametrize(
    ("json", "quiet", "terminal", "term", "kind"),
    [
        (False, False, True, "xterm-256color", Live),
        (False, False, True, "dumb", Plain),
        (False, False, True, "", Plain),
        (False, False, False, "xterm", Plain),
        (True, False, True, "xterm", Silent),
        (False, True, True, "xterm", Silent),
    ],
)
def test_which_display(json: bool, quiet: bool, terminal: bool, term: str, kind: type) -> None:
    stream = Terminal("UTF-8") if terminal else io.StringIO()
    display = progress.choose_display(json=json, quiet=quiet, stream=stream, environ={"TERM": term})
    display.close()
    assert type(display) is kind


def test_a_terminal_that_cannot_show_every_character_gets_plain_lines() -> None:
    display = progress.choose_display(json=False, quiet=False, stream=Terminal("ascii"), environ={"TERM": "xterm"})
    assert type(display) is Plain


async def test_it_is_shown_until_cancelled() -> None:
    seen = asyncio.Event()
    shown: list[int] = []

    class Counting(Silent):
        every = 0.0

        def show(self, stats: Stats) -> None:
            shown.append(stats.finished)
            if len(shown) == 3:
                seen.set()

    task = asyncio.create_task(progress.keep_showing(Counting(), Stats(finished=7)))
    await asyncio.wait_for(seen.wait(), 5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert shown[:3] == [7, 7, 7]


def test_the_summary_for_people() -> None:
    summary = Summary(
        rows=2000, done_before=30, success=1900, failed=7, paused=1, untouched=62,
        recovered=2, posts=1910, total_tokens=52310, elapsed_time=492.0, total_price={"USD": "0.50"},
    )  # fmt: skip
    failures = [FailureKind(3, "run_failed", "LLM\nsays no"), FailureKind(1, "rejected", "tone")]
    failures += [FailureKind(1, f"code{n}", "m") for n in range(4)]
    assert summary_text(summary, Path("out.jsonl"), failures, ("Type: again",)).splitlines() == [
        "2,000 rows: 30 done before, 1,900 success, 7 failed, 1 paused, 62 untouched",
        "52,310 tokens, 0.50 USD, 1,910 requests, 2 recovered, 8 min",
        "Results: out.jsonl",
        "To run again: out.jsonl.retry",
        "Paused: out.jsonl.paused",
        "Failures:",
        "  3 x run_failed: LLM says no",
        "  1 x rejected: tone",
        "  1 x code0: m",
        "  1 x code1: m",
        "  1 x code2: m",
        "  1 more of other kinds",
        "Next:",
        "  Type: again",
    ]


def test_the_summary_of_a_batch_where_all_went_well() -> None:
    summary = Summary(rows=1, success=1, posts=1, elapsed_time=2.0)
    text = summary_text(summary, Path("out.jsonl"), [], ())
    assert text == "1 row: 1 success\n1 request, 2 s\nResults: out.jsonl"
    assert summary_text(Summary(), Path("o"), [], ()).startswith("0 rows: nothing to do\n")
