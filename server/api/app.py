"""The app: the routes, behind the one check that every request passes, behind the log."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from wardround import __version__
from wardround.errors import LocalError, RemoteError
from wardround.plain_text import plain_text
from wardround.plan import PlanError
from wardround.server.api.admission import Admission
from wardround.server.api.answers import refusals
from wardround.server.api.json_log import Log, json_log
from wardround.server.api.login import Login
from wardround.server.api.metrics import ServerMetrics
from wardround.server.api.metrics_routes import add_metrics_routes
from wardround.server.api.model_routes import add_model_routes
from wardround.server.api.passwords import Passwords
from wardround.server.api.permissions import PERMISSIONS, ROLES, Permission, check_routes
from wardround.server.api.plan_routes import add_plan_routes
from wardround.server.api.request_log import RequestLog
from wardround.server.api.run_routes import add_run_routes
from wardround.server.api.scrape_token import is_scrape_token
from wardround.server.api.services import Services
from wardround.server.api.session_routes import add_session_routes
from wardround.server.api.site_routes import add_site_routes

__all__ = ["make_api", "make_routes"]


def make_api(
    services: Services,
    *,
    log: Log | None = None,
    passwords: Passwords | None = None,
    roles: Mapping[str, frozenset[Permission]] = ROLES,
) -> ASGIApp:
    """The whole interface as an ASGI app. RuntimeError where a route is not in the table of permissions."""
    login, metrics = Login(services, passwords), ServerMetrics(services)
    routes = make_routes(services, login, metrics)
    check_routes(routes, PERMISSIONS)
    admission = Admission(
        routes,
        routes=routes,
        login=login,
        is_scrape_token=lambda token: is_scrape_token(services, token),
        permissions=PERMISSIONS,
        roles=roles,
    )
    return RequestLog(
        admission, log=json_log() if log is None else log, random=services.random, counted=metrics.counted
    )


def make_routes(services: Services, login: Login, metrics: ServerMetrics) -> FastAPI:
    """The routes alone, which check nothing: only `make_api` is to be served."""
    app = FastAPI(
        title="wardround server",
        version=__version__,
        description="What a coordinator does: invite sites, start runs, fetch models.",
        openapi_url=None,  # a route of ours, for those with a session
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(Exception, _unforeseen)
    for kind, status in ((PlanError, 422), (LocalError, 409), (RemoteError, 422), (ClientDisconnect, 400)):
        app.add_exception_handler(kind, _failed(status))
    add_session_routes(app, services, login)
    add_site_routes(app, services)
    add_plan_routes(app, services)
    add_run_routes(app, services)
    add_model_routes(app, services)
    add_metrics_routes(app, services, metrics)

    @app.get("/api/v1/openapi.json", responses=refusals(401), tags=["session"])
    def openapi() -> dict[str, Any]:
        """This description."""
        return app.openapi()

    return app


def _problem(status: int, text: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": plain_text(text, 500)}, status, headers=headers)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """Where and why, without the value: it may be a password."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 (how it is registered)
    first = error.errors()[0] if error.errors() else {}
    where = ".".join(str(part) for part in first.get("loc", ()))
    return _problem(422, f"{where}: {first.get('msg', 'expected another value')}")


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101 (how it is registered)
    return _problem(error.status_code, str(error.detail), error.headers)


async def _unforeseen(request: Request, error: Exception) -> JSONResponse:
    """The log, which the error goes to next, says more."""
    return _problem(500, "a failure of the server; its log says more")


def _failed(status: int) -> Any:
    async def answer(request: Request, error: Exception) -> JSONResponse:
        return _problem(status, str(error))

    return answer
