"""Publishes metrics at the endpoint that Ray keeps for Prometheus on every node, where `ray[default]` is installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.run.cluster.connect import ray
from pipeline.run.show.metrics import RUN_TAGS, Metric


class RayMeter:
    """Counters and gauges of Ray's.

    Recording a number is a note within this process. Ray carries the notes to the node's endpoint every ten seconds, and
    when the driver leaves the cluster; a gauge that was not set meanwhile is gone from there within 20 seconds, a counter
    stays as long as the node's agent lives. Without `ray[default]` nobody asks for the notes.
    """

    def __init__(self) -> None:
        """Make nothing yet: a metric is Ray's from its first number on."""
        self._known: dict[str, Any] = {}

    def ready(self) -> bool:
        """Whether this process belongs to a Ray."""
        return ray.is_initialized()

    def add(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        """See `Meter.add`."""
        self._ray(metric).inc(value, tags)

    def set(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        """See `Meter.set`."""
        self._ray(metric).set(value, tags)

    def _ray(self, metric: Metric) -> Any:
        if metric.name not in self._known:
            from ray.util.metrics import Counter, Gauge

            kind = Counter if metric.counts else Gauge
            self._known[metric.name] = kind(metric.name, metric.meaning, RUN_TAGS + metric.tags)
        return self._known[metric.name]
