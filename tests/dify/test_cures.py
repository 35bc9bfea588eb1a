"""What to type about a refusal: one hint each, the right one."""

from __future__ import annotations

import json

import pytest

from dify_batch.dify import cures
from dify_batch.dify.answers import error_of
from dify_batch.engine.stopping import error_of_fatal
from dify_batch.outcomes import Fatal

FORBIDDEN = [
    ("The app's API service has been disabled.", "turn the app's API on in Dify"),
    ("The app no longer exists.", "the app has been deleted in Dify"),
    ("The app's status is abnormal.", "look at the app in Dify"),
    ("The workspace's status is archived.", "workspace is archived"),
]


@pytest.mark.parametrize(("message", "cure"), FORBIDDEN)
def test_dify_forbids_for_reasons_that_its_words_alone_tell_apart(message: str, cure: str) -> None:
    body = json.dumps({"code": "forbidden", "message": message, "status": 403}).encode()
    head = {"content-type": "application/json"}
    at_first = error_of(403, head, body, method="GET", url="http://d/v1/parameters", now=0.0, first=True)
    in_mid_batch = error_of_fatal(Fatal("app", "forbidden", message, 403))
    for error in (at_first, in_mid_batch):
        assert (error.code, error.exit_status) == ("access_denied", 4)
        assert message in error.message
        assert cure in (error.hint or "")
        others = [other for _, other in FORBIDDEN if other != cure]
        assert not any(other in (error.hint or "") for other in others)


def test_a_code_that_is_not_known_leads_to_the_app() -> None:
    assert "look at the app in Dify" in cures.of_code("something_new")
