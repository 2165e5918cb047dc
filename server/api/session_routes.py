"""Logging in and out, and the routes that need no session."""

import asyncio
import json
from datetime import datetime
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field, StringConstraints

from wardround import __version__
from wardround.server.api.admission import session_of
from wardround.server.api.answers import Form, Name, refusals
from wardround.server.api.enrolment_limit import EnrolmentLimit
from wardround.server.api.login import Login
from wardround.server.api.passwords import MOST_LETTERS
from wardround.server.api.services import Services
from wardround.server.pki.endpoints import handle_authority, handle_join, handle_leave

__all__ = ["add_session_routes"]


class Health(Form):
    status: str


class Authority(Form):
    authority: str = Field(description="Certificate of the authority for connections, DER, base64.")
    time: str = Field(description="The server's clock.")


class Joined(Form):
    name: str
    certificate: str
    identity: str
    identity_authority: str
    revocations: str
    server: str
    target: str
    time: str


class JoinProblem(Form):
    error: str = Field(description="Why, in one word for a program.")
    message: str
    used_at: str | None = None


class Left(Form):
    name: str


class Credentials(Form):
    name: Name
    password: Annotated[str, StringConstraints(min_length=1, max_length=MOST_LETTERS)]


class Who(Form):
    name: str
    role: str


class Token(Form):
    token: str = Field(description="For the header `Authorization: Bearer`. It is shown once.")
    expires: datetime
    account: Who


class SessionAnswer(Form):
    account: Who
    expires: datetime


class Status(Form):
    name: str
    fingerprint: str = Field(description="Of the key that the server signs with, which every site pins.")
    version: str
    time: datetime
    sites: int = Field(description="Sites that take part.")
    present: int = Field(description="Sites that are attached now.")
    runs: dict[str, int] = Field(description="How many runs are in which state.")


def add_session_routes(app: FastAPI, services: Services, login: Login) -> None:
    """The routes on sessions, `health`, `authority`, `join`, `leave` and `status`."""
    limit = EnrolmentLimit()

    @app.get("/api/v1/health", responses=refusals(), tags=["public"])
    def health() -> Health:
        """Say that the server answers, and nothing else."""
        return Health(status="ok")

    @app.get("/api/v1/authority", responses=refusals(), tags=["public"])
    def authority() -> Authority:
        """The authority whose fingerprint an invitation has."""
        return Authority(**handle_authority(services.enrolment)[1])

    @app.post(
        "/api/v1/join",
        response_model=Joined,
        responses=refusals() | {one: {"model": JoinProblem} for one in (400, 403, 409, 410, 429)},
        tags=["public"],
        openapi_extra={"requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}}},
    )
    async def join(request: Request) -> Response:
        """Let a site join: it has a token that was given to it, and keys of its own. See docs/enrolment.md."""
        refusal = limit.refusal(_address(request), services.clock())
        if refusal is not None:
            return refusal
        status, answer = await asyncio.to_thread(handle_join, services.enrolment, await _json(request))
        return JSONResponse(answer, status)

    @app.post(
        "/api/v1/leave",
        response_model=Left,
        responses=refusals() | {one: {"model": JoinProblem} for one in (400, 403, 429)},
        tags=["public"],
        openapi_extra={"requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}}},
    )
    async def leave(request: Request) -> Response:
        """Let a site go that says so by its signing key; its certificates end with it. See docs/enrolment.md."""
        refusal = limit.refusal(_address(request), services.clock())
        if refusal is not None:
            return refusal
        status, answer = await asyncio.to_thread(handle_leave, services.enrolment, await _json(request))
        return JSONResponse(answer, status)

    @app.post("/api/v1/session", responses=refusals(401, 429), tags=["session"])
    def log_in(body: Credentials, request: Request) -> Token:
        """Log in."""
        made = login.begin(body.name, body.password, _address(request))
        who = Who(name=made.account.name, role=made.account.role)
        return Token(token=made.token, expires=made.expires, account=who)

    @app.get("/api/v1/session", responses=refusals(401), tags=["session"])
    def who_am_i(request: Request) -> SessionAnswer:
        """Whose session this is, and when it ends."""
        session = session_of(request.scope)
        who = Who(name=session.account.name, role=session.account.role)
        return SessionAnswer(account=who, expires=session.expires)

    @app.delete("/api/v1/session", status_code=204, responses=refusals(401), tags=["session"])
    def log_out(request: Request) -> None:
        """End this session."""
        login.end(session_of(request.scope))

    @app.get("/api/v1/status", responses=refusals(401), tags=["session"])
    def status() -> Status:
        """What the server is doing."""
        states: dict[str, int] = {}
        for run in services.runs.list():
            states[run.state] = states.get(run.state, 0) + 1
        active = {site.name for site in services.sites.list() if site.revoked_at is None}
        return Status(
            name=services.name,
            fingerprint=services.fingerprint,
            version=__version__,
            time=services.clock(),
            sites=len(active),
            present=len(active & services.presence.present()),
            runs=states,
        )


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


async def _json(request: Request) -> Any:
    """The body; None where it is no JSON, which is refused in the words of what was asked."""
    try:
        return json.loads(await request.body())
    except (ValueError, RecursionError):
        return None
