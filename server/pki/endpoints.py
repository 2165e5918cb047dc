"""What sites send to `Enrolment` over HTTPS and over the link, and what they are answered; without the transport."""

import json
from collections.abc import Mapping
from typing import Any

from wardround.errors import RemoteError
from wardround.join_messages import JoinRefusal, JoinRequest, LeaveRequest, RenewalRequest, VersionError
from wardround.orders import SiteId
from wardround.plain_text import plain_text
from wardround.server.pki.enrolment import Enrolment
from wardround.server.pki.join_verdict import JoinRefusedError

__all__ = ["handle_authority", "handle_join", "handle_leave", "handle_renewal"]

_STATUS = {
    JoinRefusal.MALFORMED: 400,
    JoinRefusal.VERSION: 400,
    JoinRefusal.UNKNOWN: 403,
    JoinRefusal.NAME_TAKEN: 409,
    JoinRefusal.KEY_TAKEN: 409,
    JoinRefusal.WRONG_NAME: 409,
    JoinRefusal.USED: 410,
    JoinRefusal.EXPIRED: 410,
    JoinRefusal.WITHDRAWN: 410,
}


def handle_authority(enrolment: Enrolment) -> tuple[int, dict[str, Any]]:
    """The HTTP status and the JSON for GET /api/v1/authority, which is public."""
    return 200, enrolment.authority().encode()


def handle_join(enrolment: Enrolment, body: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """The HTTP status and the JSON for POST /api/v1/join; a refusal has `error`, `message` and maybe `used_at`.

    The token in `body` is in no answer and in no error.
    """
    try:
        return 200, enrolment.join(JoinRequest.read(body)).encode()
    except JoinRefusedError as error:
        answer = {"error": error.refusal.value, "message": str(error)}
        if error.used_at is not None:
            answer["used_at"] = error.used_at.isoformat(timespec="seconds")
        return _STATUS[error.refusal], answer
    except RemoteError as error:
        refusal = JoinRefusal.VERSION if isinstance(error, VersionError) else JoinRefusal.MALFORMED
        return _STATUS[refusal], {"error": refusal.value, "message": str(error)}


def handle_leave(enrolment: Enrolment, body: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """The HTTP status and the JSON for POST /api/v1/leave: `name`, also of a site that is out already, or `error` and
    `message`."""
    try:
        asked = LeaveRequest.read(body)
    except RemoteError as error:
        return 400, {"error": "malformed", "message": str(error)}
    try:
        enrolment.leave(asked)
    except RemoteError as error:
        return 403, {"error": "refused", "message": str(error)}
    return 200, {"name": asked.name}


def handle_renewal(enrolment: Enrolment, site: SiteId, body: bytes) -> bytes:
    """The body of the `certificate` notice that answers the `renew` notice of an attached site. RemoteError: none."""
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RemoteError(f"renew: expected JSON ({plain_text(str(error))})") from None
    return json.dumps(enrolment.renew(site, RenewalRequest.read(asked)).encode()).encode()
