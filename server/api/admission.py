"""The one check that every request passes before its body is read: is there a route, may this caller use it, and how
much may the body be."""

import asyncio
import json
from collections.abc import Callable, Mapping

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wardround.server.api.answers import Refusal
from wardround.server.api.login import Login
from wardround.server.api.permissions import PERMISSIONS, ROLES, Permission, allowed
from wardround.server.state.sessions import Session

__all__ = ["MOST_BODY", "MOST_MODEL_BYTES", "MOST_PLAN_BYTES", "Admission", "session_of"]

MOST_BODY = 16 << 10
MOST_PLAN_BYTES = 1 << 20
MOST_MODEL_BYTES = 4 << 30
_MOST: Mapping[tuple[str, str], int] = {
    ("POST", "/api/v1/plans"): MOST_PLAN_BYTES,
    ("POST", "/api/v1/models/release"): MOST_PLAN_BYTES,
    ("PUT", "/api/v1/plans/{digest}/first-model"): MOST_MODEL_BYTES,
}
"""Bodies that may be larger than `MOST_BODY`, which is so small that strangers may send one."""
_GRACE_S, _LEAST_RATE = 10.0, 64 << 10


class Admission:
    """Finds the route as the app below will, asks the table, and bounds the body: its size, and the time it may take.

    A body has 10 seconds, and a second more for each 64 KiB that has come. `is_scrape_token` answers for the metrics.
    The session and the route are left in the state of the request.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        routes: FastAPI,
        login: Login,
        is_scrape_token: Callable[[str], bool],
        permissions: Mapping[tuple[str, str], Permission] = PERMISSIONS,
        roles: Mapping[str, frozenset[Permission]] = ROLES,
    ) -> None:
        self._app, self._routes, self._login = app, routes, login
        self._is_scrape_token, self._permissions, self._roles = is_scrape_token, permissions, roles

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if {b"content-length", b"transfer-encoding"} <= {name for name, _ in scope["headers"]}:
            # nobody between may take another end of the body for the right one (RFC 9112, section 6.1)
            return await _refuse(send, 400, "expected a Content-Length or a Transfer-Encoding, got both")
        route = self._route(scope)
        if route is None:  # no handler will run: the app says 404 or 405
            return await self._app(scope, _no_body, send)
        state = scope.setdefault("state", {})
        state["route"] = route
        needed = self._permissions.get((scope["method"], route))
        if needed is None:  # cannot be: `check_routes` ran
            return await _refuse(send, 403, "this account may not do that")
        if needed is not Permission.PUBLIC:
            token = _bearer(scope)
            session = await asyncio.to_thread(self._login.find, token) if token else None
            state["session"] = session
            if session is None:
                scrapes = needed is Permission.SCRAPE and token is not None
                if not (scrapes and await asyncio.to_thread(self._is_scrape_token, str(token))):
                    return await _refuse(send, 401, "expected a session; log in: wardround login")
            elif not allowed(session.account.role, needed, self._roles):
                return await _refuse(send, 403, f"the role {session.account.role!r} may not do that ({needed.value})")
        most = _MOST.get((scope["method"], route), MOST_BODY)
        if (declared := _declared(scope)) is None or declared > most:
            return await _refuse(send, 413, f"expected a body of at most {most} bytes")
        await self._bounded(scope, receive, send, most)

    def _route(self, scope: Scope) -> str | None:
        for route in self._routes.routes:
            match, _ = route.matches(scope)
            if match is Match.FULL and isinstance(route, APIRoute):
                return route.path
        return None

    async def _bounded(self, scope: Scope, receive: Receive, send: Send, most: int) -> None:
        started, size, whole = asyncio.get_running_loop().time(), 0, False

        async def bounded() -> Message:
            nonlocal size, whole
            if whole:
                return await receive()  # tells of a peer that has gone
            try:
                async with asyncio.timeout_at(started + _GRACE_S + size / _LEAST_RATE):
                    message = await receive()
            except TimeoutError:
                text = f"expected a body in {_GRACE_S:.0f} seconds, and {_LEAST_RATE >> 10} KiB a second"
                raise Refusal(408, text) from None
            size += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if size > most:
                raise Refusal(413, f"expected a body of at most {most} bytes")
            return message

        await self._app(scope, bounded, send)


def session_of(scope: Scope) -> Session:
    """The session of a request that was admitted with one."""
    found: Session = scope["state"]["session"]
    return found


def _bearer(scope: Scope) -> str | None:
    found = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(found) != 1:
        return None
    kind, _, token = found[0].partition(b" ")
    try:
        return token.strip().decode("ascii") if kind.lower() == b"bearer" else None
    except UnicodeDecodeError:
        return None


def _declared(scope: Scope) -> int | None:
    """The declared length of the body, 0 where there is none declared; None where it is no number."""
    found = {value for name, value in scope["headers"] if name == b"content-length"}
    if not found:
        return 0
    text = found.pop()
    return int(text) if not found and text.isdigit() and len(text) <= 18 else None


async def _no_body() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _refuse(send: Send, status: int, text: str) -> None:
    body = json.dumps({"error": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status in (400, 408, 413):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
