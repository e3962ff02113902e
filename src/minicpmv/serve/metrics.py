r"""What the server is doing, for Prometheus.

Engine -> Metrics.text -> "minicpmv_requests_running 3\n..."
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from minicpmv.generation.engine.loop import Engine


class Metrics:
    """Reads the engine when it is asked, and counts answers of the server.

    Args:
        engine: which is read.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._statuses: Counter[str] = Counter()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def answered(self) -> None:
        """A request was accepted."""
        self._statuses["200"] += 1

    def refused(self, status: int) -> None:
        """A request was refused."""
        self._statuses[str(status)] += 1

    def text(self) -> str:
        """Everything, in Prometheus' words."""
        return generate_latest(self._registry).decode()

    def collect(self) -> Iterator[Any]:
        """For the registry."""
        engine = self._engine
        scheduler, pool, features = engine.scheduler, engine.scheduler.pool, engine.features
        gauges = {
            "requests_running": ("Requests that take part in steps.", len(scheduler.running)),
            "requests_waiting": ("Requests that wait.", len(scheduler.waiting)),
            "kv_blocks": ("Blocks of KV memory.", pool.num_blocks),
            "kv_blocks_held": ("Blocks that requests hold.", pool.num_held),
            "feature_cache_bytes": ("Memory of what was found out about pictures.", features.num_bytes),
        }
        for name, (told, value) in gauges.items():
            yield GaugeMetricFamily(f"minicpmv_{name}", told, value=value)
        counters = {
            "steps": ("Steps of the engine.", engine.counts["steps"]),
            "prompt_tokens": ("Tokens of prompts that were read.", engine.counts["prompt_tokens"]),
            "cached_tokens": ("Tokens of prompts that were known already.", engine.counts["cached_tokens"]),
            "new_tokens": ("Tokens that were written.", engine.counts["new_tokens"]),
            "packs_encoded": ("Slices and packs of frames that were encoded.", engine.counts["packs"]),
            "feature_cache_hits": ("Packs that were known already.", features.hits),
            "preemptions": ("Requests that gave their memory back.", scheduler.num_preempted),
        }
        for name, (told, value) in counters.items():
            yield CounterMetricFamily(f"minicpmv_{name}", told, value=value)
        ended = CounterMetricFamily("minicpmv_requests_ended", "Requests by how they ended.", labels=["reason"])
        for reason in ("stop", "length", "repetition", "deadline", "cancelled", "failed"):
            ended.add_metric([reason], engine.counts[f"ended_{reason}"])
        yield ended
        answered = CounterMetricFamily("minicpmv_http_requests", "Requests by status.", labels=["status"])
        for status, number in sorted(self._statuses.items()):
            answered.add_metric([status], number)
        yield answered
