"""Repeating what certainly did not start, for callers without a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dify_batch.backoff import Backoff
from dify_batch.dify.client import DifyClient
from dify_batch.outcomes import Lost, Outcome, Rejected, RunRef, RunResult, Succeeded, Throttled, Unreachable

GOOD = Succeeded(RunResult(RunRef("run"), "succeeded", {}))


@pytest.mark.parametrize(
    ("outcomes", "posts", "last"),
    [
        ([GOOD], 1, GOOD),
        ([Unreachable("refused"), Throttled("full", retry_after=0.0), GOOD], 3, GOOD),
        ([Unreachable("refused")] * 9, 4, Unreachable("refused")),
        ([Lost("cut"), GOOD], 1, Lost("cut")),
        ([Rejected("invalid_param", "no"), GOOD], 1, Rejected("invalid_param", "no")),
    ],
)
async def test_only_what_certainly_did_not_start_is_sent_again(
    outcomes: list[Outcome], posts: int, last: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[dict[str, Any]] = []
    left = iter(outcomes)

    async def run(self: DifyClient, inputs: object, **more: Any) -> Outcome:
        sent.append(more)
        return next(left)

    monkeypatch.setattr(DifyClient, "run", run)
    async with DifyClient("http://127.0.0.1:9/v1", "app-x") as client:
        repeat: Callable[..., Any] = client.run_safely
        assert await repeat({"q": "x"}, user="u", mode="blocking", timeout=5, backoff=Backoff(initial=0)) == last
    assert len(sent) == posts
