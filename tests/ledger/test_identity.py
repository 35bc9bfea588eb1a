"""Whose results an output holds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dify_batch.errors import Exit, UsageError
from dify_batch.ledger.formats import json_line
from dify_batch.ledger.identity import Identity, fingerprint, require_same, server_of
from dify_batch.ledger.records import journal_record

KEY, OTHER = "app-Ab12Cd34Ef56Gh78Ij90Kl12", "app-Zz12Cd34Ef56Gh78Ij90Kl12"
HERE, THERE = "https://dify.example.com/v1", "https://other.example.com/v1"


def identity(server: str = HERE, key: str = KEY, salt: str = "00", app: str | None = "Echo") -> Identity:
    return Identity.of(server, key, salt, app=app, mode="workflow")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://a.b/v1", "http://A.B/v1/", True),
        ("https://a.b:443/v1", "https://a.b/v1", True),
        ("https://u:p@a.b/v1", "https://a.b/v1", True),
        ("https://a.b:8080/v1", "https://a.b/v1", False),
        ("https://a.b/x/v1", "https://a.b/v1", False),
        ("https://a.b/v1", "https://a.c/v1", False),
    ],
)
def test_what_is_the_same_server(one: str, other: str, same: bool) -> None:
    assert (server_of(one) == server_of(other)) == same


def test_the_journal_never_holds_the_key() -> None:
    line = json_line({"event": "batch"} | identity().facts(), compact=True)
    assert KEY[4:12].encode() not in line
    record = journal_record(line)
    assert record is not None
    assert Identity.of_record(record) == identity()
    assert len(fingerprint(KEY, "00")) == 8
    assert fingerprint(KEY, "00") != fingerprint(KEY, "01")
    assert identity(server="https://me:secret@x.y/v1").facts()["server"] == "x.y/v1"


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        ([], identity(), None),
        ([Identity()], identity(), None),  # of a version that did not say
        ([identity()], identity(), None),
        ([identity()], identity(salt="ff"), None),
        ([identity(app=None)], identity(), None),
        ([identity()], identity(key=OTHER), "another one than before"),
        ([identity(app=None)], identity(key=OTHER), "another one than before"),
        ([identity()], identity(key=OTHER, app=None), "another one than before"),
        ([identity()], identity(app="Renamed"), None),
        ([identity()], identity(key=OTHER, app="Other"), UsageError),
        ([identity()], identity(server=THERE), UsageError),
        ([identity(), identity(server=THERE)], identity(), None),  # it was allowed once
        ([Identity(demo=True)], identity(), UsageError),
        ([identity()], Identity(demo=True), UsageError),
        ([Identity()], Identity(demo=True), UsageError),
        ([Identity(demo=True)], Identity(demo=True), None),
    ],
)
def test_one_app_on_one_server(before: list[Identity], now: Identity, found: Any) -> None:
    key = KEY if now.key == fingerprint(KEY, now.salt) else OTHER
    if found is UsageError:
        with pytest.raises(UsageError) as caught:
            require_same(before, HERE, key, now, allowed=False)
        assert (caught.value.code, caught.value.exit_status) == ("other_app", Exit.USAGE)
        assert caught.value.hint
        if not (now.demo or before[0].demo):
            assert require_same(before, HERE, key, now, allowed=True)
        else:
            with pytest.raises(UsageError):
                require_same(before, HERE, key, now, allowed=True)
    else:
        note = require_same(before, HERE, key, now, allowed=False)
        assert note is None if found is None else found in str(note)
        assert KEY not in json.dumps(note)
