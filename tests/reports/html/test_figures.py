"""Bins over time and distributions."""

from __future__ import annotations

import pytest

from dify_batch.reports.html.figures import Points, charts, nice, percentile, step_of

START = 1_764_000_000.0  # a whole minute


def points(*rows: tuple[float | None, bool, float | None, float | None]) -> Points:
    made = Points()
    for row in rows:
        made.add(*row)
    return made


@pytest.mark.parametrize(
    ("part", "value"), [(0.0, 1), (0.25, 1), (0.26, 2), (0.5, 2), (0.75, 3), (0.95, 4), (1.0, 4)]
)  # fmt: skip
def test_a_percentile_is_one_of_the_values(part: float, value: float) -> None:
    assert percentile([1, 2, 3, 4], part) == value


@pytest.mark.parametrize(
    ("span", "step"),
    [(0, 1), (120, 1), (121, 2), (3600, 30), (3601, 60), (86400, 900), (86400 * 120, 86400), (86400 * 365, 86400 * 4)],
)
def test_any_span_has_few_bins_of_a_width_that_people_know(span: float, step: int) -> None:
    assert step_of(span) == step


@pytest.mark.parametrize(
    ("width", "shown"), [(0.9, 1), (1, 1), (1.1, 2), (2.2, 2.5), (3, 5), (5.1, 10), (0.03, 0.05), (140, 200)]
)
def test_widths_of_bars(width: float, shown: float) -> None:
    assert nice(width) == pytest.approx(shown)


def test_no_row_and_one_row_need_no_chart() -> None:
    assert charts(Points()) == []
    assert charts(points((START, True, 1.0, 5))) == []


def test_rows_of_the_same_second_are_one_bin() -> None:
    made = charts(points((START, True, 1.0, 5), (START, False, None, None), (START + 1, True, 3.0, 7)))
    titles = [chart["title"] for chart in made]
    assert titles == ["Rows ended, per 1 s", "How long runs took, per 1 s", "Tokens, per 1 s", "How long runs took",
                      "Tokens of a run"]  # fmt: skip
    rows, seconds, tokens = made[:3]
    assert rows["x"] == [START, START + 1]
    assert rows["labels"] == ["2025-11-24 16:00:00Z", "2025-11-24 16:00:01Z"]
    assert [line["values"] for line in rows["series"]] == [[1, 1], [1, 0]]
    assert [line["values"] for line in seconds["series"]] == [[1.0, 3.0], [1.0, 3.0]]
    assert [line["values"] for line in tokens["series"]] == [[5, 7]]


def test_a_bin_without_a_row_has_no_duration() -> None:
    made = charts(points((START, True, 1.0, None), (START + 2, True, 2.0, None)))
    assert made[1]["series"][0]["values"] == [1.0, None, 2.0]


def test_every_value_is_in_a_bar_and_far_ones_share_the_last() -> None:
    made = charts(points(*((None, True, 1 + n / 100, None) for n in range(100)), (None, True, 500.0, None)))
    (chart,) = made
    assert sum(chart["series"][0]["values"]) == 101
    assert chart["labels"][-1].endswith("and more")
    assert chart["series"][0]["values"][-1] == 1
    assert len(chart["x"]) < 40


def test_whole_numbers_have_whole_bars() -> None:
    made = charts(points(*((None, True, None, float(n)) for n in (3, 3, 4, 5))))
    (chart,) = made
    assert chart["x"] == [3, 4, 5]
    assert chart["series"][0]["values"] == [2, 1, 1]
