"""What Prometheus reads (`GET /metrics`): the queue, work done by kind, pictures found in the cache, memory, disk."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from studio.service import Studio

CONTENT_TYPE = CONTENT_TYPE_LATEST


class _Figures(Collector):
    """Read when they are asked for: nothing is counted twice, here and in the queue."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    def collect(self) -> Iterator[Metric]:
        system = self._studio.system()
        for name, help_, value in (
            ("studio_jobs_waiting", "Jobs that wait for their turn.", system.queue_waiting),
            ("studio_jobs_running", "Jobs that are being worked on.", system.queue_running),
            ("studio_memory_bytes", "Memory of this process.", system.memory_used),
            ("studio_disk_free_bytes", "Room on the disk of the home folder.", system.disk_free),
            ("studio_pictures", "Pictures in the home folder.", system.pictures),
            ("studio_pictures_bytes", "Disk that pictures take.", system.disk_used),
            ("studio_cache_asked", "Pictures of all jobs of the last 30 days.", system.cache_asked),
            ("studio_cache_found", "Those of them that were there already.", system.cache_found),
            (
                "studio_runs_active",
                "Training runs that wait or train.",
                sum(run.active for run in self._studio.runs.list()),
            ),
        ):
            yield GaugeMetricFamily(name, help_, value=value)
        ended = CounterMetricFamily("studio_jobs", "Jobs that ended, by kind and state.", labels=("kind", "state"))
        seconds = CounterMetricFamily(
            "studio_job_seconds", "Seconds from first turn to end, by kind.", labels=("kind",)
        )
        cached = CounterMetricFamily("studio_pictures_cached", "Pictures that were there already.", labels=("kind",))
        for (kind, state), total in self._studio.totals().items():
            ended.add_metric((kind, state), total.jobs)
            seconds.add_metric((kind,), total.seconds)
            cached.add_metric((kind,), total.cached)
        yield from (ended, seconds, cached)


def exposition(studio: Studio) -> bytes:
    """All figures in Prometheus's text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(studio))
    return bytes(generate_latest(registry))
