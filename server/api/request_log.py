"""One line of the log for every request, and a reserve for failures that nobody foresaw."""

import json
import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wardround.server.api.json_log import Log, where_raised

__all__ = ["RequestLog"]

_MOST_LINES, _WINDOW_S = 300, 60.0
_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"strict-transport-security", b"max-age=31536000"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)


class RequestLog:
    """The outermost layer. Logs the route (not the path, which has names in it), the account, the status and the time.

    Of requests without a session 300 a minute have a line, so that strangers do not fill the disk; how many had none is
    said. `counted` is told the route, the status and the seconds of all. What no layer below foresaw is answered with
    500.
    """

    def __init__(
        self, app: ASGIApp, *, log: Log, random: Callable[[int], bytes], counted: Callable[[str, int, float], None]
    ) -> None:
        self._app, self._log, self._random, self._counted = app, log, random, counted
        self._window, self._lines = 0.0, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        number, started, status, whole = self._random(8).hex(), time.monotonic(), 0, False
        scope.setdefault("state", {})

        async def answered(message: Message) -> None:
            nonlocal status, whole
            if message["type"] == "http.response.start":
                status = message["status"]
                own = {name for name, _ in message["headers"]}
                missing = [one for one in _HEADERS if one[0] not in own]
                message["headers"] = [*message["headers"], *missing, (b"x-request-id", number.encode())]
            elif message["type"] == "http.response.body":
                whole = not message.get("more_body", False)
            await send(message)

        failure: Exception | None = None
        try:
            await self._app(scope, receive, answered)
        except Exception as error:  # the outermost: nobody else would log it
            failure = error
            if status == 0:
                await _refuse(answered)
            elif not whole:
                raise _CutOffError("the answer was cut off") from None
        finally:
            seconds = time.monotonic() - started
            state = scope["state"]
            session = state.get("session")
            route = state.get("route", "")
            values = {
                "request": number,
                "method": scope["method"] if route else "",
                "route": route,
                "account": session.account.name if session is not None else "",
                "from": (scope.get("client") or ("",))[0],
                "status": status,
                "ms": round(1000 * seconds),
            }
            self._counted(route, status, seconds)
            if failure is not None:
                self._log.error("request", **values, error=type(failure).__name__, where=where_raised(failure))
            elif session is not None or self._has_room():
                self._log.info("request", **values)

    def _has_room(self) -> bool:
        """Whether a request without a session has a line."""
        now = time.monotonic()
        if now - self._window >= _WINDOW_S:
            if self._lines > _MOST_LINES:
                self._log.warning("requests without a line", left_out=self._lines - _MOST_LINES)
            self._window, self._lines = now, 0
        self._lines += 1
        return self._lines <= _MOST_LINES


class _CutOffError(Exception):
    """Tells the server to end the connection."""


async def _refuse(send: Send) -> None:
    body = json.dumps({"error": "a failure of the server; its log says more"}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 500, "headers": headers})
    await send({"type": "http.response.body", "body": body})
