"""Models: what runs have made, and what of it was released."""

import tomllib
from datetime import datetime
from typing import Annotated

from fastapi import FastAPI, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import Field

from wardround.plain_text import plain_text
from wardround.release_manifest import Manifest
from wardround.server.api.admission import session_of
from wardround.server.api.answers import Form, Name, Refusal, file_of, refusals
from wardround.server.api.services import Services
from wardround.server.runs.releasing import MAX_REDTEAM_BYTES
from wardround.server.state.models import StoredModel
from wardround.server.state.releases import Release

__all__ = ["add_model_routes"]

_Version = Annotated[int, Query(ge=1, lt=1 << 31)]


class ModelShown(Form):
    name: str
    version: int
    run: int = Field(description="The number of the run that made it.")
    plan: str = Field(description="The digest of the plan.")
    sha256: str = Field(description="Of its file.")
    size_bytes: int
    sealed: bool = Field(description="Whether its file is sealed to the members of its run, who alone can open it.")
    created: datetime
    current: bool = Field(description="Whether it is meant where no version is named.")
    parents: list[str] = Field(description="The version that it follows; it need not have been trained from it.")
    released: datetime | None = Field(description="When it was released last.")


class WhichModel(Form):
    name: Name
    version: Annotated[int, Field(ge=1, lt=1 << 31)]


class AskedRelease(WhichModel):
    redteam: Annotated[str, Field(max_length=MAX_REDTEAM_BYTES)] | None = Field(
        None, description="Results of a simulated red team, JSON; absent: those of the release before."
    )


class ReleaseShown(Form):
    name: str
    version: int
    number: int = Field(description="Releases of this version count from 1.")
    sha256: str = Field(description="Of its file.")
    size_bytes: int
    released: datetime
    cosigned: list[str] = Field(description="The sites that have co-signed the model.")
    missing: list[str] = Field(description="The sites that have not, yet.")


def add_model_routes(app: FastAPI, services: Services) -> None:
    """The routes on models."""

    @app.get("/api/v1/models", responses=refusals(401, 403), tags=["models"])
    def models(
        name: Annotated[Name | None, Query(description="Only the versions of this model.")] = None,
    ) -> list[ModelShown]:
        """Every model, by name and version."""
        return _all_shown(services, name)

    @app.get(
        "/api/v1/models/file",
        responses=file_of("application/octet-stream") | refusals(401, 403, 404),
        response_class=StreamingResponse,
        tags=["models"],
    )
    def file(name: Annotated[Name, Query()], version: _Version, request: Request) -> StreamingResponse:
        """The file of a model: safetensors, or what its run's members open. Of a damaged one the end does not come."""
        found = _found(services, name, version)
        _note(services, request, "model.exported", found)
        headers = {"content-length": str(services.blobs.size(found.blob))}
        return StreamingResponse(
            services.blobs.parts(found.blob), media_type="application/octet-stream", headers=headers
        )

    @app.post("/api/v1/models/release", responses=refusals(401, 403, 404, 409), tags=["models"])
    def release(body: AskedRelease, request: Request) -> ReleaseShown:
        """Sign a model with all that is to be known of it; nobody is waited for."""
        found = _found(services, body.name, body.version)
        by = session_of(request.scope).account.name
        return _release_shown(services, services.releasing.release(found, by=by, redteam=body.redteam))

    @app.get(
        "/api/v1/models/released",
        responses=file_of("application/octet-stream") | refusals(401, 403, 404),
        response_class=StreamingResponse,
        tags=["models"],
    )
    def released(name: Annotated[Name, Query()], version: _Version, request: Request) -> StreamingResponse:
        """The file of a model's last release. Where it was damaged the answer is cut off before its end."""
        found = _found(services, name, version)
        one = services.releases.newest(name, version)
        if one is None:
            raise Refusal(404, f"{plain_text(name)}@{version} is not released; see `wardround model release`")
        _note(services, request, "model.exported", found)
        size, parts = services.releasing.file(one)
        return StreamingResponse(parts, media_type="application/octet-stream", headers={"content-length": str(size)})

    @app.post("/api/v1/models/current", responses=refusals(401, 403, 404), tags=["models"])
    def current(body: WhichModel, request: Request) -> list[ModelShown]:
        """Let a version be the one that is meant where none is named; the versions, then. Nothing is deleted."""
        found = _found(services, body.name, body.version)
        services.current_models.set(found)
        _note(services, request, "model.made_current", found)
        return _all_shown(services, body.name)


def _found(services: Services, name: str, version: int) -> StoredModel:
    found = services.models.get(name, version)
    if found is None:
        raise Refusal(404, f"there is no model {plain_text(name)!r} of version {version}; see `wardround model list`")
    return found


def _note(services: Services, request: Request, kind: str, model: StoredModel) -> None:
    by, subject = session_of(request.scope).account.name, f"{model.name}@{model.version}"
    services.events.add(kind, now=services.clock(), subject=subject, run_id=model.run_id, who=by)


def _all_shown(services: Services, name: str | None) -> list[ModelShown]:
    numbers = {run.id: run.number for run in services.runs.list()}
    released = {(one.name, one.version): one.at for one in services.releases.list(name)}
    found = services.models.list(name)
    sealed = {one: _is_sealed(services, one) for one in {model.plan_digest for model in found}}
    current = {one: services.current_models.get(one) for one in {model.name for model in found}}
    return [
        ModelShown(
            name=one.name,
            version=one.version,
            run=numbers[one.run_id],
            plan=one.plan_digest,
            sha256=one.sha256.hex(),
            size_bytes=services.blobs.size(one.blob),
            sealed=sealed[one.plan_digest],
            created=one.created,
            current=one == current[one.name],
            parents=[f"{one.name}@{one.version - 1}"] if one.version > 1 else [],
            released=released.get((one.name, one.version)),
        )
        for one in found
    ]


def _is_sealed(services: Services, plan_digest: str) -> bool:
    """Whether the plan has its models sealed to members; no other key of it is looked at."""
    stored = services.plans.get(plan_digest)
    table = {} if stored is None else tomllib.loads(stored.toml).get("protection", {})
    return bool(table.get("sealed_model", False))


def _release_shown(services: Services, one: Release) -> ReleaseShown:
    sites = Manifest.from_bytes(one.manifest).sites
    return ReleaseShown(
        name=one.name,
        version=one.version,
        number=one.number,
        sha256=one.sha256.hex(),
        size_bytes=services.releasing.file(one)[0],
        released=one.at,
        cosigned=[site.name for site in sites if site.cosignature is not None],
        missing=[site.name for site in sites if site.cosignature is None],
    )
