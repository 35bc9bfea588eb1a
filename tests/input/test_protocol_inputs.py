"""Whether the inputs that run detail gives are those of a row."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dify_batch.dify.sameness import same_inputs
from tests.support.wire_files import recorded

FILE = {"transfer_method": "local_file", "upload_file_id": "f1", "type": "document"}
LINK = {"transfer_method": "remote_url", "url": "http://a/1", "type": "document"}


@pytest.mark.parametrize(
    ("sent", "theirs", "same"),
    [
        ({"q": "a"}, {"q": "a", "sys.user_id": "u"}, True),
        ({"q": "a"}, {"q": "b"}, False),
        ({"q": "a", "unknown": "x"}, {"q": "a"}, True),  # unknown names are not stored [06n]
        ({"q": "a"}, {"q": "a", "n": None}, True),
        ({"q": "a"}, {"q": "a", "n": 3}, False),
        ({"n": " 7 "}, {"n": 7}, True),
        ({"n": "1.5"}, {"n": 1.5}, True),
        ({"n": ""}, {"n": None}, True),
        ({"n": "x"}, {"n": 7}, False),
        ({"n": 12345678901234567890123}, {"n": 1.2345678901234568e22}, True),
        ({"n": 10**400}, {"n": 1.0}, False),
        ({"flag": "TRUE"}, {"flag": True}, True),
        ({"flag": False}, {"flag": True}, False),
        ({"q": "a\0b"}, {"q": "ab"}, True),
        ({"meta": {"a": [1]}}, {"meta": {"a": [1]}}, True),
        ({"doc": FILE}, {"doc": {"related_id": "f1"}}, True),
        ({"doc": FILE}, {"doc": {"related_id": "f2"}}, False),
        ({"doc": LINK}, {"doc": {"related_id": None, "remote_url": "http://a/1"}}, True),
        ({"doc": LINK}, {"doc": {"related_id": None, "remote_url": "http://a/2"}}, False),
        ({"docs": [FILE]}, {"docs": [{"related_id": "f1"}]}, True),
        ({"docs": [FILE]}, {"docs": []}, False),
        ({"doc": {"transfer_method": "local_file"}}, {"doc": {"related_id": None}}, False),
        ({}, {"sys.user_id": "u"}, False),  # nothing to tell runs apart by
    ],
)
def test_same_inputs(sent: dict[str, Any], theirs: dict[str, Any], same: bool) -> None:
    assert same_inputs(sent, json.dumps(theirs)) is same


@pytest.mark.parametrize("recorded_inputs", [None, "", "[]", "{", '"x"'])
def test_inputs_that_cannot_be_read_are_no_match(recorded_inputs: str | None) -> None:
    assert not same_inputs({"q": "a"}, recorded_inputs)


def test_the_inputs_of_a_recorded_run() -> None:
    theirs = json.loads(recorded("13-run-detail-succeeded").body)["inputs"]
    assert same_inputs({"query": "detail"}, theirs)
    assert not same_inputs({"query": "other"}, theirs)
