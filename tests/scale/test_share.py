"""What one part takes of the whole batch's figures."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dify_batch.batch.share import share_of
from dify_batch.errors import UsageError
from dify_batch.ids import Shard
from dify_batch.settings import Settings

KEY = "app-Ab12Cd34Ef56Gh78Ij90Kl12"


def settings(**given: Any) -> Settings:
    return Settings(input="data.csv", output=Path("results.jsonl"), api_key=KEY, **given)  # type: ignore[arg-type]


def shares(of: int, **given: Any) -> list[Any]:
    return [share_of(settings(shard=f"{number}/{of}", **given)) for number in range(1, of + 1)]


@given(of=st.integers(1, 40), more=st.integers(0, 200), limit=st.integers(1, 300))
def test_the_parts_together_take_the_whole_and_no_more(of: int, more: int, limit: int) -> None:
    found = shares(of, concurrency=of + more, limit=limit, rate=100.0, max_cost=Decimal(7))
    assert sum(share.concurrency for share in found) == of + more
    assert min(share.concurrency for share in found) >= 1
    assert sum(share.limit for share in found) == limit
    assert sum(share.rate for share in found) == pytest.approx(100.0)
    assert sum(share.max_cost for share in found) <= Decimal("7.000001")


def test_each_figure_of_one_part() -> None:
    share = share_of(settings(shard="3/4", concurrency=10, wait=2, max_tokens=1001, max_failures="6", rate="8/s"))
    assert (share.concurrency, share.wait, share.max_tokens, share.rate) == (2, 8.0, 250, 2.0)
    assert str(share.max_failures) == "1"
    auto = share_of(settings(shard="1/4", concurrency="auto", max_failures="10%"))
    assert (auto.concurrency, str(auto.max_failures)) == ("auto", "10%")


def test_without_parts_all_of_it() -> None:
    share = share_of(settings(concurrency=7, limit=3, rate="2/s"))
    assert (share.concurrency, share.limit, share.rate) == (7, 3, 2.0)


def test_by_default_each_part_has_one_run_at_least() -> None:
    assert settings(shard="1/16").concurrency == 16
    assert settings(shard="1/2").concurrency == 5


@pytest.mark.parametrize(
    "given",
    [{"concurrency": 3}, {"wait": 1}, {"user": "me"}, {"app": "an-id"}, {"dedupe": True}],
    ids=["too-few", "one-at-a-time", "user", "app", "dedupe"],
)
def test_what_parts_cannot_share_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"parts|--shard"):
        settings(shard=Shard(4, 1), **given)


@pytest.mark.parametrize("text", ["0/4", "5/4", "3", "1/0", "a/b", "-1/4", "1/4/2", "1/100000"])
def test_a_part_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="shard"):
        settings(shard=text)
