"""Who may do what: one table of routes, one of roles. What is in neither is denied.

`check_routes` is called when the server starts: an app with a route that the table does not have does not start.
"""

from collections.abc import Collection, Mapping
from enum import StrEnum

from fastapi import FastAPI
from fastapi.routing import APIRoute

__all__ = ["PERMISSIONS", "ROLES", "Permission", "allowed", "check_routes"]


class Permission(StrEnum):
    """What a route needs."""

    PUBLIC = "public"
    """Nothing: it is answered without a session."""
    SESSION = "session"
    """Any session."""
    SEE_SITES = "see-sites"
    INVITE = "invite"
    REVOKE = "revoke"
    SEE_PLANS = "see-plans"
    ADD_PLANS = "add-plans"
    SEE_RUNS = "see-runs"
    START_RUNS = "start-runs"
    SEE_MODELS = "see-models"
    EXPORT_MODELS = "export-models"
    RELEASE_MODELS = "release-models"
    SCRAPE = "scrape"
    """Read the server's metrics; the one route for which the scrape token is enough."""
    SET_SCRAPE_TOKEN = "set-scrape-token"  # noqa: S105 (a permission)


_P = Permission
PERMISSIONS: Mapping[tuple[str, str], Permission] = {
    ("GET", "/api/v1/health"): _P.PUBLIC,
    ("GET", "/api/v1/authority"): _P.PUBLIC,
    ("POST", "/api/v1/join"): _P.PUBLIC,
    ("POST", "/api/v1/leave"): _P.PUBLIC,  # who may is said by a signature in its body
    ("POST", "/api/v1/session"): _P.PUBLIC,
    ("GET", "/api/v1/session"): _P.SESSION,
    ("DELETE", "/api/v1/session"): _P.SESSION,
    ("GET", "/api/v1/openapi.json"): _P.SESSION,
    ("GET", "/api/v1/status"): _P.SESSION,
    ("GET", "/api/v1/invitations"): _P.SEE_SITES,
    ("POST", "/api/v1/invitations"): _P.INVITE,
    ("POST", "/api/v1/invitations/{invitation}/withdraw"): _P.INVITE,
    ("GET", "/api/v1/clients"): _P.SEE_SITES,
    ("POST", "/api/v1/clients/revoke"): _P.REVOKE,
    ("GET", "/api/v1/plans"): _P.SEE_PLANS,
    ("POST", "/api/v1/plans"): _P.ADD_PLANS,
    ("GET", "/api/v1/plans/{digest}"): _P.SEE_PLANS,
    ("PUT", "/api/v1/plans/{digest}/first-model"): _P.ADD_PLANS,
    ("GET", "/api/v1/runs"): _P.SEE_RUNS,
    ("POST", "/api/v1/runs"): _P.START_RUNS,
    ("GET", "/api/v1/runs/{run}"): _P.SEE_RUNS,
    ("POST", "/api/v1/runs/{run}/pause"): _P.START_RUNS,
    ("POST", "/api/v1/runs/{run}/resume"): _P.START_RUNS,
    ("POST", "/api/v1/runs/{run}/stop"): _P.START_RUNS,
    ("GET", "/api/v1/runs/{run}/events"): _P.SEE_RUNS,
    ("GET", "/api/v1/runs/{run}/rounds"): _P.SEE_RUNS,
    ("GET", "/api/v1/runs/{run}/evidence"): _P.SEE_RUNS,
    ("GET", "/api/v1/runs/{run}/report"): _P.SEE_RUNS,
    ("GET", "/api/v1/models"): _P.SEE_MODELS,
    ("GET", "/api/v1/models/file"): _P.EXPORT_MODELS,
    ("POST", "/api/v1/models/release"): _P.RELEASE_MODELS,
    ("GET", "/api/v1/models/released"): _P.EXPORT_MODELS,
    ("POST", "/api/v1/models/current"): _P.RELEASE_MODELS,
    ("GET", "/api/v1/metrics"): _P.SCRAPE,
    ("POST", "/api/v1/metrics/token"): _P.SET_SCRAPE_TOKEN,
}
"""Each route by method and path, and what it needs."""

ROLES: Mapping[str, frozenset[Permission]] = {"owner": frozenset(Permission)}
"""What the accounts of a role may do. A role that is not here may do nothing but have a session."""


def allowed(role: str, needed: Permission, roles: Mapping[str, frozenset[Permission]] = ROLES) -> bool:
    """Whether a logged-in account of `role` may do what needs `needed`."""
    return needed in (Permission.PUBLIC, Permission.SESSION) or needed in roles.get(role, frozenset())


def check_routes(app: FastAPI, table: Mapping[tuple[str, str], Permission] = PERMISSIONS) -> None:
    """RuntimeError unless the app's routes are those of the table, no more and no fewer."""
    found: set[tuple[str, str]] = set()
    for route in app.routes:
        if not isinstance(route, APIRoute):
            raise RuntimeError(f"expected routes of the table of permissions, got {type(route).__name__}")
        found |= {(method, route.path) for method in route.methods or ()}
    _none(found - table.keys(), "every route in the table of permissions")
    _none(table.keys() - found, "a route for every row of the table of permissions")


def _none(odd: Collection[tuple[str, str]], expected: str) -> None:
    if odd:
        raise RuntimeError(f"expected {expected}, got {' '.join(min(odd))}")
