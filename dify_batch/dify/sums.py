"""What the nodes of a run's stream tell beyond its end: what its models cost, and which node failed. Pure.

node_finished of a model node bears `execution_metadata` with total_price and currency [35b1]. iteration_completed and
loop_completed bear the sum of their inner nodes [35c1]: their own figure counts, or, where they give none, their inner
nodes', never both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from dify_batch.dify.results import text
from dify_batch.outcomes import FailedNode, RunResult
from dify_batch.usage import exact, parse_price

_CONTAINERS = {"iteration_completed": "iteration_id", "loop_completed": "loop_id"}
_FINISHED = ("node_finished", *_CONTAINERS)

Prices = dict[str, Decimal]


@dataclass(slots=True)
class Sums:
    """`add` takes the data of one event; `into` puts what they came to into the run's result."""

    prices: Prices = field(default_factory=dict)
    inner: dict[str, Prices] = field(default_factory=dict)
    """What was told inside an iteration or loop that has not told its own figure."""
    failed: FailedNode | None = None
    """The last one: what failed before it was passed over, as an iteration may."""
    retried: FailedNode | None = None
    """The last one that was tried again (node_retry)."""

    def add(self, name: object, data: Mapping[str, Any]) -> None:
        if name == "node_finished" and data.get("status") == "failed":
            self.failed = _node(data)
        elif name == "node_retry":
            self.retried = _node(data)
        if name not in _FINISHED:
            return
        told = data.get("execution_metadata")
        metadata = told if isinstance(told, dict) else {}
        price = parse_price(metadata.get("total_price"))
        container = _container(data, metadata)
        if name != "node_finished":
            own = text(data.get("node_id") or data.get("id"))
            inside = self.inner.pop(own, {})
            if price is None:
                self._join(inside, container)
                return
        if price is not None:
            self._join({text(metadata.get("currency")): price}, container)

    def _join(self, prices: Prices, container: str) -> None:
        into = self.inner.setdefault(container, {}) if container else self.prices
        for currency, price in prices.items():
            into[currency] = into.get(currency, Decimal(0)) + price

    def into(self, result: RunResult, *, failed: bool) -> RunResult:
        """The result with its price; with the failed node where the run failed (a node may fail and be passed over)."""
        for inside in list(self.inner.values()):  # of iterations whose end was not told
            self._join(inside, "")
        self.inner.clear()
        if failed and (node := self._at(result.error or "")) is not None:
            result = replace(result, failed_node=node)
        if len(self.prices) == 1:
            ((currency, price),) = self.prices.items()
            return replace(result, total_price=exact(price), currency=currency or None)
        if self.prices:
            return replace(result, prices={currency: exact(price) for currency, price in sorted(self.prices.items())})
        return result

    def _at(self, error: str) -> FailedNode | None:
        """The node that a run with this error failed at. One that was tried again may have ended well: it counts where
        the run's error has its words, and no node told of its own end."""
        retried = self.retried
        return self.failed or (retried if retried is not None and retried.error and retried.error in error else None)


def _node(data: Mapping[str, Any]) -> FailedNode:
    title, kind = text(data.get("title") or data.get("node_id")), text(data.get("node_type"))
    return FailedNode(title, kind, text(data.get("error")))


def _container(data: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    """The node id of the innermost iteration or loop that an event belongs to, "" for the workflow itself."""
    for name in ("iteration_id", "loop_id"):
        found = data.get(name) or metadata.get(name)
        if found:
            return text(found)
    return ""
