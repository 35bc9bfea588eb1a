"""The summary of a batch out of those of its parts, and in which order they are given out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dify_batch.ids import IdIndex, Shard
from dify_batch.scale.figures import Held, add_up
from dify_batch.scale.survey import Standing, Survey
from dify_batch.scale.tasks import tasks
from dify_batch.scale.whole import PartRun, whole
from dify_batch.settings import Settings
from dify_batch.summary import Stats, Summary
from dify_batch.usage import Total


def standing(number: int, **given: Any) -> Standing:
    return Standing(Shard(4, number), **({"rows": 10, "to_run": 10} | given))


def summary(**given: Any) -> dict[str, Any]:
    return Summary(rows=10, **given).as_dict()


def adds_up(found: Summary) -> bool:
    return bool(sum(getattr(found, name) for name in Summary.STATES) == found.rows)


def test_parts_add_up() -> None:
    runs = [
        PartRun(standing(1), summary(success=9, failed=1, posts=11, total_price={"USD": "0.1"}, run_time=1.0)),
        PartRun(standing(2, done=4, to_run=6), summary(done_before=4, success=6, posts=6, run_time=3.0)),
        PartRun(standing(3, done=1, open=2, paused=1, retry_waiting=3, to_run=4)),
    ]
    found = whole(runs, Summary(elapsed_time=5.0), left_out=2)
    assert adds_up(found)
    assert (found.rows, found.done_before, found.success, found.failed) == (32, 5, 15, 3)
    assert (found.paused, found.running, found.retry_waiting, found.untouched) == (1, 1, 3, 4)
    assert (found.posts, dict(found.total_price), found.run_time, found.elapsed_time) == (17, {"USD": "0.1"}, 1.8, 5.0)


def test_what_a_dead_worker_has_done_was_done_this_time() -> None:
    run = PartRun(standing(1, done=2, to_run=8))
    run.cut_off({"success": 3, "failed": 1, "posts": 5, "total_tokens": 30, "total_price": {"USD": "0.2"}})
    run.summary = summary(done_before=5, success=4, retry_waiting=1, posts=4, total_tokens=40)
    found = whole([run], Summary(), left_out=0)
    assert adds_up(found)
    assert (found.done_before, found.success, found.failed, found.retry_waiting) == (2, 7, 1, 0)
    assert (found.posts, found.total_tokens, dict(found.total_price)) == (9, 70, {"USD": "0.2"})


def test_a_part_that_came_to_no_end_counts_by_its_files() -> None:
    run = PartRun(standing(1, done=2, to_run=8), after=standing(1, done=5, open=2, retry_waiting=1, to_run=2))
    found = whole([run], Summary(), left_out=0)
    assert adds_up(found)
    assert (found.done_before, found.success, found.failed, found.running, found.untouched) == (2, 3, 1, 2, 2)


def test_the_live_figures_do_not_fall_when_a_worker_dies() -> None:
    part, stats = Held(PartRun(standing(1))), Stats()
    part.figures = {"rows": 10, "done_before": 0, "success": 4, "finished": 4, "posts": 6, "to_run": 10}
    add_up(stats, [part, Held(PartRun(standing(2)))], left_out=0)
    assert (stats.rows, stats.success, stats.posts, stats.to_run) == (20, 4, 6, 20)
    part.cut_off(part.figures)
    add_up(stats, [part], left_out=1)
    assert (stats.rows, stats.success, stats.finished, stats.posts) == (11, 4, 4, 6)
    part.figures = {"rows": 10, "done_before": 4, "success": 1, "finished": 1, "posts": 1, "to_run": 6}
    add_up(stats, [part], left_out=0)
    assert (stats.success, stats.finished, stats.posts, stats.done_before) == (5, 5, 7, 0)


def given_out(*parts: Standing, **more: Any) -> list[tuple[int, bool, int | None]]:
    settings = Settings(
        input="data.csv",
        output=Path("results.jsonl"),
        api_key="app-Ab12Cd34Ef56Gh78Ij90Kl12",  # type: ignore[arg-type]
        **({"workers": 2} | more),
    )
    survey = Survey(parts, IdIndex(), None, 0, Total())
    return [(task.number, task.collect, task.limit) for task in tasks(survey, settings)]


def test_the_largest_go_first_and_what_is_done_not_at_all() -> None:
    parts = (standing(1, to_run=3), standing(2, to_run=9), standing(3, to_run=0, begun=True), standing(4, to_run=0))
    assert [number for number, _, _ in given_out(*parts)] == [2, 1, 4]


def test_what_is_open_goes_before_that_and_is_only_looked_at_where_it_is_more_than_workers() -> None:
    parts = tuple(standing(number, open=int(number < 4), begun=True) for number in (1, 2, 3, 4))
    assert given_out(*parts, workers=3) == [(1, False, None), (2, False, None), (3, False, None), (4, False, None)]
    first = given_out(*parts, workers=2)
    assert first[:3] == [(1, True, None), (2, True, None), (3, True, None)]
    assert len(first) == 7


def test_a_limit_is_shared_out_part_after_part() -> None:
    parts = (standing(1, to_run=6, begun=True), standing(2, to_run=9, begun=True), standing(3, open=1, begun=True))
    assert given_out(*parts, limit=12) == [(3, False, 10), (2, False, 2)]
    assert given_out(*parts[:2], standing(3, open=1, to_run=0, begun=True), limit=9) == [(3, True, None), (2, False, 9)]
