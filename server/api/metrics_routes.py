"""The metrics of the server in Prometheus' text form, and the token that a Prometheus needs."""

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import Field

from wardround.server.api.admission import session_of
from wardround.server.api.answers import Form, file_of, refusals
from wardround.server.api.metrics import ServerMetrics
from wardround.server.api.scrape_token import new_scrape_token
from wardround.server.api.services import Services

__all__ = ["add_metrics_routes"]


class ScrapeToken(Form):
    token: str = Field(description="For Prometheus' `bearer_token_file`. It is shown once; the one before is void.")


def add_metrics_routes(app: FastAPI, services: Services, metrics: ServerMetrics) -> None:
    """The routes on metrics."""

    @app.get(
        "/api/v1/metrics",
        responses=file_of("text/plain") | refusals(401, 403),
        response_class=Response,
        tags=["metrics"],
    )
    def read() -> Response:
        """The metrics; the scrape token is enough."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.post("/api/v1/metrics/token", status_code=201, responses=refusals(401, 403), tags=["metrics"])
    def new_token(request: Request) -> ScrapeToken:
        """Make a scrape token."""
        token = new_scrape_token(services)
        by = session_of(request.scope).account.name
        services.events.add("metrics.token_made", now=services.clock(), who=by)
        return ScrapeToken(token=token)
