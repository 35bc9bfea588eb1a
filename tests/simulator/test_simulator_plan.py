"""The pure parts: fault plans, settings, the check of inputs."""

from __future__ import annotations

from typing import Any

import pytest

from dify_batch.simulator import Config
from dify_batch.simulator.apps import ECHO_FORM, FILES_FORM
from dify_batch.simulator.faults import NORMAL, Fault
from dify_batch.simulator.files import multipart
from dify_batch.simulator.inputs import InputError, check_inputs
from dify_batch.simulator.plan import draw, parse_plan, take_upload
from dify_batch.simulator.streams import split_characters


def test_a_plan_in_all_its_forms() -> None:
    plan = parse_plan(
        {
            "rows": {"a": ["cut_before", {"name": "slow_answer", "seconds": 3}, {"latency": 2}], "b": "error_500"},
            "all": ["partial", {"name": "redis_down", "seconds": 1}],
            "server": ["closed_log", {"name": "hang", "on": "GET info", "after": 1, "times": 2, "lasts": 3}],
            "uploads": {"a.txt": ["upload_413"]},
        }
    )
    assert [plan.take("a", n) for n in range(1, 5)] == [
        Fault("cut_before"),
        Fault("slow_answer", 3.0),
        Fault("normal", latency=2.0),
        NORMAL,
    ]
    assert plan.take("b", 1) == Fault("error_500")
    assert plan.take("c", 1) == Fault("partial")
    assert plan.server == {"closed_log": Fault("closed_log")}
    assert [scheduled.fault for scheduled in plan.requests] == [
        Fault("hang", on=("GET info",), after=1, times=2, lasts=3.0),
        Fault("redis_down", 1.0),
    ]
    assert [take_upload(plan, name).name for name in ("b.txt", "a.txt", "a.txt")] == ["normal", "upload_413", "normal"]
    assert parse_plan({}).take("a", 1) == NORMAL


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"rows": []}, None),
        ({"rows": [1]}, "rows must be an object"),
        ({"row": {}}, "unknown key 'row'; one of: rows, all, mix, seed, server, uploads"),
        ({"rows": {"a": ["hang"]}}, "row 'a': unknown fault 'hang'"),
        ({"server": "cut_before"}, "server: unknown fault 'cut_before'; one of: closed_log, cut"),
        ({"rows": {"a": [{"name": "silence", "second": 1}]}}, "a fault is a name or an object"),
        ({"rows": {"a": [{"name": "slow_answer", "seconds": "1"}]}}, "seconds of slow_answer must be a number"),
        ({"mix": {"silence": 2}}, "mix: silence needs a probability"),
        ({"mix": ["silence"]}, "mix must be an object"),
        ({"mix": {"hang": 0.1}}, "mix: unknown fault 'hang'"),
        ({"seed": "x"}, "seed must be a whole number"),
    ],
)
def test_bad_plans_say_what_is_wrong(plan: dict[str, object], message: str | None) -> None:
    if message is None:
        assert parse_plan(plan).rows == {}
        return
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        parse_plan(plan)


def test_a_draw_is_fixed_by_seed_row_and_post() -> None:
    mix = (("cut_before", 0.25), ("silence", 0.25))
    drawn = {
        (seed, row, nth): draw(mix, seed, row, nth).name for seed in (1, 2) for row in "abcdefgh" for nth in range(50)
    }
    assert all(draw(mix, *key).name == name for key, name in drawn.items())
    share = [list(drawn.values()).count(name) / len(drawn) for name in ("cut_before", "silence", "normal")]
    assert share == pytest.approx([0.25, 0.25, 0.5], abs=0.06)
    assert draw(mix, 1, "a", 1) == draw(mix, 1, "a", 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latencies": 1}, "unknown or fixed setting 'latencies'"),
        ({"latency": "fast"}, "latency must be a number"),
        ({"latency": None}, "latency must be a number"),
        ({"workers": -1}, "workers must not be negative"),
        ({"workers": True}, "workers must be a number"),
    ],
)
def test_bad_settings(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config().changed(changes)


def no_files(_: object) -> dict[str, Any]:
    raise InputError("Invalid upload file")


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ({"n": " 7 "}, {"n": 7}),
        ({"n": True}, {"n": True}),
        ({"n": 2**64}, {"n": float(2**64)}),
        ({"n": 2**63}, {"n": 2**63}),
        ({"flag": 1}, {"flag": True}),
        ({"flag": "FALSE"}, {"flag": False}),
        ({"flag": ""}, {"flag": ""}),
        ({"meta": ""}, {"meta": ""}),
        ({"meta": {"a": "\x00"}}, {"meta": {"a": "\x00"}}),
        ({"language": "x" * 48}, {"language": "x" * 48}),
    ],
)
def test_inputs_as_stored(given: dict[str, Any], stored: dict[str, Any]) -> None:
    checked = check_inputs(ECHO_FORM, {"query": "q", "unknown": 1} | given, no_files)
    empty = dict.fromkeys(["query", "language", "n", "tone", "flag", "meta"])
    assert checked == empty | {"query": "q"} | stored
    assert list(checked) == list(empty)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"doc": "x"}, "doc in input form must be a file"),
        ({"doc": {}, "docs": {}}, "Invalid upload file"),
        ({}, "doc is required in input form"),
        ({"doc": ""}, "doc in input form must be a file"),
    ],
)
def test_bad_files(inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_inputs(FILES_FORM, inputs, no_files)


def test_file_lists() -> None:
    def resolve(mapping: object) -> dict[str, Any]:
        return {"file": mapping}

    assert check_inputs(FILES_FORM, {"doc": {}, "docs": ""}, resolve)["docs"] is None
    assert check_inputs(FILES_FORM, {"doc": {}, "docs": []}, resolve)["docs"] == []
    with pytest.raises(InputError, match="docs in input form must be less than 3 files"):
        check_inputs(FILES_FORM, {"doc": {}, "docs": [{}] * 4}, resolve)
    with pytest.raises(InputError, match="docs in input form must be a list of files"):
        check_inputs(FILES_FORM, {"doc": {}, "docs": "x"}, resolve)


def test_multipart_of_something_else_has_no_parts() -> None:
    assert multipart("application/json", b"{}") == []


def test_characters_are_split_after_their_first_byte() -> None:
    text = "aé日b"
    pieces = split_characters(text.encode())
    assert b"".join(pieces).decode() == text
    assert pieces == [b"a\xc3", b"\xa9\xe6", b"\x97\xa5b"]
