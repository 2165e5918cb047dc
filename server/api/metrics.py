"""What Prometheus may read: counts and times, and how many of what. No site's name, no figure of a model."""

from collections import Counter as Count
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from wardround.server.api.services import Services
from wardround.server.runs.run_state import RunState

__all__ = ["ServerMetrics"]


class ServerMetrics:
    """A registry of its own, so that what else runs in the process is not in it."""

    def __init__(self, services: Services) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "wardround_requests", "Requests that were answered.", ("route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "wardround_request_seconds", "How long a request took.", ("route",), registry=self.registry
        )
        self.registry.register(_State(services))

    def counted(self, route: str, status: int, seconds: float) -> None:
        """A request was answered; `route` is empty where there is none, whatever the path was."""
        self._requests.labels(route or "none", str(status)).inc()
        self._seconds.labels(route or "none").observe(seconds)


class _State(Collector):
    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterable[Metric]:
        services = self._services
        active = [site for site in services.sites.list() if site.revoked_at is None]
        present = services.presence.present()
        yield GaugeMetricFamily("wardround_sites", "Sites that take part.", value=len(active))
        attached = sum(site.name in present for site in active)
        yield GaugeMetricFamily("wardround_sites_present", "Sites that are attached now.", value=attached)
        runs = services.runs.list()
        states = Count(run.state for run in runs)
        family = GaugeMetricFamily("wardround_runs", "Runs by state.", labels=("state",))
        for state in RunState:
            family.add_metric((state.value,), states[state.value])
        yield family
        rounds = sum(run.round for run in runs)
        yield GaugeMetricFamily("wardround_rounds", "Rounds that are done, of all runs.", value=rounds)
        yield GaugeMetricFamily("wardround_models", "Models that were made.", value=len(services.models.list()))
