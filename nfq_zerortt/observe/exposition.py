"""What a service tells of itself, for Prometheus: its answer to ``stats`` as metric families.

The text format is prometheus-client's: escaping, types and the negotiation with the scraper are
what a dozen lines of one's own get wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from nfq_zerortt.errors import ZeroRttError
from nfq_zerortt.observe import metrics
from nfq_zerortt.observe.metrics import COUNTER, GAUGE, METRICS

UP = "nfq_zerortt_up"
INFO = "nfq_zerortt"
STARTED = "nfq_zerortt_start_time_seconds"
_SAME_START_S = 5.0  # an answer takes as long at most, and is not as long on its way each time
_INFO_LABELS = ("version", "strategy", "data_path", "client_iface", "server_iface")

Stats = Mapping[str, Any]


def text(stats: Stats) -> str:
    """Return the exposition of an answer to ``stats``."""
    return generate_latest(registry(lambda: stats)).decode()


def registry(ask: Callable[[], Stats]) -> CollectorRegistry:
    """Return a registry that calls ``ask`` for the answer to ``stats``, each time it is read."""
    made = CollectorRegistry(auto_describe=False)
    made.register(_Service(ask))
    return made


class _Service(Collector):
    """One service; a ZeroRttError when it is asked means that it is not there."""

    def __init__(self, ask: Callable[[], Stats]) -> None:
        self._ask = ask
        self._started = 0.0

    def collect(self) -> Iterator[Metric]:
        """Give the families: ``up`` alone, if there is no answer."""
        try:
            stats = self._ask()
        except ZeroRttError:
            yield GaugeMetricFamily(UP, "Whether the service answers.", value=0)
            return
        yield GaugeMetricFamily(UP, "Whether the service answers.", value=1)
        started = time.time() - stats["service"]["uptime_s"]
        if abs(started - self._started) > _SAME_START_S:
            self._started = started
        yield from _of_service(stats["service"], self._started)
        for metric in METRICS:
            yield _family(metric, stats[metric.kind].get(metric.name, {}))

    def describe(self) -> Iterator[Metric]:
        """Name nothing beforehand: the registry has one collector."""
        return iter(())


def _of_service(service: Mapping[str, Any], started: float) -> Iterator[Metric]:
    labels = {name: str(service[name]) for name in _INFO_LABELS}
    yield InfoMetricFamily(INFO, "What the service is.", value=labels)
    yield GaugeMetricFamily(STARTED, "When the service was ready.", value=round(started, 1))


def _family(metric: metrics.Metric, value: Any) -> Metric:
    name = metric.exposed
    if metric.kind == COUNTER:
        counter = CounterMetricFamily(name, metric.meaning, labels=metric.labels)
        for labels, number in _samples(value, len(metric.labels)):
            counter.add_metric(labels, number)
        return counter
    if metric.kind == GAUGE:
        gauge = GaugeMetricFamily(name, metric.meaning, labels=metric.labels)
        for labels, number in _samples(value, len(metric.labels)):
            gauge.add_metric(labels, number)
        return gauge
    histogram = HistogramMetricFamily(name, metric.meaning)
    bounds = [*(repr(bound) for bound in metric.bounds), "+Inf"]
    below = accumulate(value["counts"])
    histogram.add_metric([], list(zip(bounds, below, strict=True)), value["sum"])
    return histogram


def _samples(value: Any, depth: int) -> Iterator[tuple[Sequence[str], float]]:
    """Give the numbers of a nested record, each with the values of its labels."""
    if not depth:
        yield (), value
        return
    for label, inner in value.items():
        for labels, number in _samples(inner, depth - 1):
            yield (label, *labels), number
