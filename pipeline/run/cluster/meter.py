"""Publishes metrics at the endpoint that Ray keeps for Prometheus on every node, where `ray[default]` is installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.run.cluster.connect import ray
from pipeline.run.show.metrics import RUN_TAGS, Metric


class RayMeter:
    """Counters and gauges of Ray.

    Recording a number stores it in this process. Ray sends the numbers to the node's endpoint every ten seconds, and when the
    driver leaves the cluster. A gauge that is no longer set disappears there within 20 seconds; a counter stays as long as the
    node's agent lives. Without `ray[default]`, the numbers go nowhere.
    """

    def __init__(self) -> None:
        """Start without metrics: each is made at Ray with its first number."""
        self._known: dict[str, Any] = {}

    def ready(self) -> bool:
        """Whether this process is connected to Ray."""
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
