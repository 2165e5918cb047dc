"""Plans: uploading one with its code and its first model, and seeing what is there."""

import asyncio
import base64
import binascii
import hashlib
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Annotated

from fastapi import FastAPI, Path, Request
from pydantic import Field, StringConstraints

from wardround.plain_text import plain_text
from wardround.plan import Plan, parse_plan
from wardround.server.api.admission import MOST_PLAN_BYTES, session_of
from wardround.server.api.answers import Digest, Form, Refusal, refusals
from wardround.server.api.first_model_head import MOST_HEAD_BYTES, FirstModelHead, head_bytes, read_head
from wardround.server.api.services import Services
from wardround.server.runs.deployable import check_deployable
from wardround.server.state.blob_store import BlobWriter
from wardround.server.state.database import TakenError
from wardround.server.state.first_models import FirstModel
from wardround.server.state.plans import StoredPlan

__all__ = ["add_plan_routes", "read_plan"]

_MOST_FILES = 1000
_MOST_OFFER = 900 << 10
"""The text and the code of a plan go to each site in one offer of at most 1 MiB."""


class PlanBody(Form):
    toml: Annotated[str, StringConstraints(min_length=1, max_length=MOST_PLAN_BYTES)]
    code: Annotated[
        dict[Annotated[str, StringConstraints(max_length=255)], str],
        Field(max_length=_MOST_FILES, description="The files of `task.code` by path in it, base64."),
    ] = Field(default_factory=dict)


class FirstModelShown(Form):
    size: int = Field(description="Parameters.")


class PlanShown(Form):
    digest: str
    name: str
    created: datetime
    created_by: str
    sites: int = Field(description="Sites that a run of it has.")
    rounds: int
    first_model: FirstModelShown | None


class PlanWhole(PlanShown):
    toml: str
    code: list[str] = Field(description="The paths of its code files.")


def add_plan_routes(app: FastAPI, services: Services) -> None:
    """The routes on plans."""

    @app.get("/api/v1/plans", responses=refusals(401, 403), tags=["plans"])
    def plans() -> list[PlanShown]:
        """Every plan, the oldest first."""
        return [_shown(services, one) for one in services.plans.list()]

    @app.post("/api/v1/plans", status_code=201, responses=refusals(401, 403, 409), tags=["plans"])
    def add_plan(body: PlanBody, request: Request) -> PlanShown:
        """Add a plan that hospitals can run; the same again changes nothing."""
        files = _decoded(body.code)
        if len(body.toml.encode(errors="replace")) + sum(map(len, body.code.values())) > _MOST_OFFER:
            raise Refusal(422, f"expected a plan and its code of at most {_MOST_OFFER >> 10} KiB, in base64")
        plan = parse_plan(body.toml, code_files=_digests(files))
        if bool(files) != (plan.task.code is not None):
            raise Refusal(422, "expected the files of task.code, exactly where the plan has it")
        check_deployable(plan)
        by, now = session_of(request.scope).account.name, services.clock()
        new = services.plans.get(plan.digest) is None
        stored = services.plans.add(
            digest=plan.digest, name=plan.name, toml=body.toml, files=files, created_by=by, now=now
        )
        if new:
            services.events.add("plan.added", now=now, subject=plan.name, who=by, detail={"digest": plan.digest})
        return _shown(services, stored)

    @app.get("/api/v1/plans/{digest}", responses=refusals(401, 403, 404), tags=["plans"])
    def plan(digest: Annotated[Digest, Path()]) -> PlanWhole:
        """A plan with its text."""
        found = _stored(services, digest)
        code = list(services.plans.files(digest))
        return PlanWhole(**_shown(services, found).model_dump(), toml=found.toml, code=code)

    @app.put(
        "/api/v1/plans/{digest}/first-model",
        status_code=201,
        responses=refusals(401, 403, 404, 409),
        tags=["plans"],
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
            }
        },
    )
    async def add_first_model(digest: Annotated[Digest, Path()], request: Request) -> FirstModelShown:
        """Add the model that the first round of a plan begins with, a safetensors file; it goes to the disk, sealed,
        as it comes."""
        await asyncio.to_thread(_stored, services, digest)
        if await asyncio.to_thread(services.first_models.get, digest) is not None:
            raise Refusal(409, "expected a plan without a first model; it has one, and that is not replaced")
        with services.blobs.receive() as writer:
            head = await _receive(request, writer, digest)
            blob = await asyncio.to_thread(writer.commit)
        try:
            by = session_of(request.scope).account.name
            added = await asyncio.to_thread(_add, services, digest, blob, head, by)
        except TakenError:
            await asyncio.to_thread(services.blobs.delete, blob)
            raise Refusal(409, "expected a plan without a first model; it has one, and that is not replaced") from None
        return FirstModelShown(size=added.size)


@lru_cache(maxsize=256)
def read_plan(toml: str) -> Plan:
    """A stored plan, for what it says; its digest is not to be asked, since its code files are left out."""
    return parse_plan(toml, code_files=())


async def _receive(request: Request, writer: BlobWriter, digest: str) -> FirstModelHead:
    """Write a body to `writer`, and check that it is the first model of this plan."""
    start, head = bytearray(), None
    async for chunk in request.stream():
        if head is None:
            start += chunk
            length = head_bytes(bytes(start[:8]))
            if length is not None and len(start) >= length:
                head = read_head(bytes(start[:length]))
                if head.plan_digest != digest:
                    raise Refusal(422, "first model: expected that of this plan, got another plan's")
                await asyncio.to_thread(writer.write, bytes(start))
        elif chunk:
            await asyncio.to_thread(writer.write, chunk)
        if head is None and len(start) > MOST_HEAD_BYTES + (1 << 20):
            break
        if head is not None and writer.size > head.file_bytes:
            break
    if head is None or writer.size != head.file_bytes:
        raise Refusal(422, "first model: expected a whole safetensors file, got more or less than its header says")
    return head


def _add(services: Services, digest: str, blob: str, head: FirstModelHead, by: str) -> FirstModel:
    added = services.first_models.add(digest, blob=blob, size=head.size, layout=head.layout, spec=head.spec)
    services.events.add(
        "first_model.added", now=services.clock(), subject=digest, who=by, detail={"parameters": head.size}
    )
    return added


def _stored(services: Services, digest: str) -> StoredPlan:
    found = services.plans.get(digest)
    if found is None:
        raise Refusal(404, f"there is no plan {digest[:12]}")
    return found


def _shown(services: Services, stored: StoredPlan) -> PlanShown:
    plan, first = read_plan(stored.toml), services.first_models.get(stored.digest)
    return PlanShown(
        digest=stored.digest,
        name=stored.name,
        created=stored.created,
        created_by=stored.created_by,
        sites=plan.simulation.sites,
        rounds=plan.rounds,
        first_model=None if first is None else FirstModelShown(size=first.size),
    )


def _digests(files: Mapping[str, bytes]) -> tuple[tuple[str, str], ...]:
    """The code bundle as `Plan.code_files` has it."""
    # sorted as pathlib sorts, part by part, which is how the digest of the folder is made
    ordered = sorted(files, key=lambda path: PurePosixPath(path))
    return tuple((path, hashlib.sha256(files[path]).hexdigest()) for path in ordered)


def _decoded(code: Mapping[str, str]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for path, text in code.items():
        parts = PurePosixPath(path).parts
        if not path or path.startswith("/") or ".." in parts or PurePosixPath(path).as_posix() != path or "\\" in path:
            raise Refusal(422, f"code: expected paths below the folder, got {plain_text(path, 80)!r}")
        if plain_text(path, 255) != path:
            raise Refusal(422, f"code: expected printable paths, got {plain_text(path, 80)!r}")
        try:
            files[path] = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise Refusal(422, f"code: {plain_text(path, 80)}: expected base64") from None
    return files
