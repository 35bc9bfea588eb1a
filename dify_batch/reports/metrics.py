"""The figures of a batch under way for Prometheus: at a port of this machine, or as a text file for node_exporter.

The thread that answers a scrape reads a copy that the batch's own thread has made, once a second.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dify_batch._version import __version__
from dify_batch.errors import UsageError
from dify_batch.ledger.disk import Disk
from dify_batch.summary import Buckets, Stats, Summary

if TYPE_CHECKING:
    from prometheus_client.core import Metric

LOOPBACK = "127.0.0.1"
EXTRA = 'install it: pip install "dify-batch[metrics]"'


def families(stats: Stats, output: str, outage_seconds: float) -> list[Metric]:
    """The metrics of one moment. `output` is a label of each: several batches on a machine can be told apart."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    def gauge(name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"dify_batch_{name}", text, labels=["output"])
        family.add_metric([output], value)
        return family

    def counter(name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(f"dify_batch_{name}", text, labels=["output"])
        family.add_metric([output], value)
        return family

    def histogram(name: str, text: str, buckets: Buckets) -> Metric:
        family = HistogramMetricFamily(f"dify_batch_{name}_seconds", text, labels=["output"])
        sums = list(itertools.accumulate(buckets.counts))
        bounds = [*(str(float(bound)) for bound in buckets.bounds), "+Inf"]
        family.add_metric([output], list(zip(bounds, sums, strict=True)), buckets.total)
        return family

    summary = stats.summary()
    rows = GaugeMetricFamily("dify_batch_rows", "Rows of the input by where they stand.", labels=["output", "state"])
    for state in Summary.STATES:
        rows.add_metric([output, state], getattr(summary, state))
    cost = CounterMetricFamily(
        "dify_batch_cost", "What the runs of this invocation cost, as far as the server told.",
        labels=["output", "currency"],
    )  # fmt: skip
    for currency, price in stats.used.prices.items():
        cost.add_metric([output, currency], float(price))
    info = GaugeMetricFamily("dify_batch_build_info", "The version of dify-batch.", labels=["output", "version"])
    info.add_metric([output, __version__], 1)
    return [
        info,
        rows,
        gauge("rows_to_run", "Rows that this invocation is to run.", stats.to_run),
        gauge("runs_in_flight", "Runs that are under way.", stats.in_flight),
        gauge("runs_limit", "How many runs may be under way.", stats.limit),
        counter("posts", "Requests that were sent to start a run.", stats.posts),
        counter("lookups", "Questions to the server about runs whose answer was lost.", stats.lookups),
        counter("recovered", "Results taken from runs that were looked up.", stats.recovered),
        counter("tokens", "Tokens that the runs of this invocation used.", stats.used.tokens),
        cost,
        counter("outage_seconds", "Seconds for which the server was away or throttled.", outage_seconds),
        histogram("run_duration", "How long runs took.", stats.run_seconds),
        histogram("start_delay", "From the request to the start of its run.", stats.start_seconds),
    ]


class Metrics:
    """Serves or writes the figures. `update` and `close` are called from the thread of the batch.

    Args:
        target: a port of loopback, or a file.
        output: the results' path as it was given.

    Raises:
        UsageError: prometheus-client is not installed, or the port is taken.
    """

    def __init__(self, target: int | Path, output: str, disk: Disk) -> None:
        try:
            import prometheus_client
        except ImportError:
            raise UsageError(
                "--metrics needs an extra that is not installed", code="usage_invalid_flag", hint=EXTRA
            ) from None
        self._target, self._output, self._disk = target, output, disk
        self._now: Sequence[Metric] = ()
        self._registry = prometheus_client.CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        self._server: Any = None
        if isinstance(target, int):
            try:
                self._server, _ = prometheus_client.start_http_server(target, LOOPBACK, self._registry)
            except OSError as error:
                raise UsageError(
                    f"--metrics: port {target} of {LOOPBACK} cannot be opened: {error.strerror}",
                    hint="give another port, or a file such as --metrics batch.prom",
                    code="usage_invalid_flag",
                ) from None

    def collect(self) -> Iterable[Metric]:
        """What the client library asks for at each scrape."""
        return self._now

    def update(self, stats: Stats, outage_seconds: float) -> None:
        """Takes the figures as they are now."""
        self._now = families(stats, self._output, outage_seconds)

    def write(self) -> None:
        """Replaces the file, where there is one; raises OSError."""
        from prometheus_client import generate_latest

        if isinstance(self._target, Path):
            self._disk.replace(self._target, generate_latest(self._registry))

    def close(self) -> None:
        if self._server is not None:
            with contextlib.suppress(OSError):
                self._server.shutdown()
                self._server.server_close()
