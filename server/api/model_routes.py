"""Models: what runs have made."""

from datetime import datetime
from typing import Annotated

from fastapi import FastAPI, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import Field

from wardround.plain_text import plain_text
from wardround.server.api.admission import session_of
from wardround.server.api.answers import Form, Name, Refusal, file_of, refusals
from wardround.server.api.services import Services
from wardround.server.state.models import StoredModel

__all__ = ["add_model_routes"]


class ModelShown(Form):
    name: str
    version: int
    run: int = Field(description="The number of the run that made it.")
    plan: str = Field(description="The digest of the plan.")
    sha256: str = Field(description="Of its file.")
    size_bytes: int
    created: datetime


def add_model_routes(app: FastAPI, services: Services) -> None:
    """The routes on models."""

    @app.get("/api/v1/models", responses=refusals(401, 403), tags=["models"])
    def models(
        name: Annotated[Name | None, Query(description="Only the versions of this model.")] = None,
    ) -> list[ModelShown]:
        """Every model, by name and version."""
        numbers = {run.id: run.number for run in services.runs.list()}
        return [_shown(services, one, numbers[one.run_id]) for one in services.models.list(name)]

    @app.get(
        "/api/v1/models/file",
        responses=file_of("application/octet-stream") | refusals(401, 403, 404),
        response_class=StreamingResponse,
        tags=["models"],
    )
    def file(
        name: Annotated[Name, Query()], version: Annotated[int, Query(ge=1, lt=1 << 31)], request: Request
    ) -> StreamingResponse:
        """The file of a model, safetensors. Where it was damaged the answer is cut off before its end."""
        found = services.models.get(name, version)
        if found is None:
            raise Refusal(
                404, f"there is no model {plain_text(name)!r} of version {version}; see `wardround model list`"
            )
        by = session_of(request.scope).account.name
        services.events.add(
            "model.exported", now=services.clock(), subject=f"{name}@{version}", run_id=found.run_id, who=by
        )
        headers = {"content-length": str(services.blobs.size(found.blob))}
        return StreamingResponse(
            services.blobs.parts(found.blob), media_type="application/octet-stream", headers=headers
        )


def _shown(services: Services, model: StoredModel, run: int) -> ModelShown:
    return ModelShown(
        name=model.name,
        version=model.version,
        run=run,
        plan=model.plan_digest,
        sha256=model.sha256.hex(),
        size_bytes=services.blobs.size(model.blob),
        created=model.created,
    )
