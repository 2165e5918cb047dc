"""Inviting sites, seeing who has joined and who is there, and revoking."""

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated

from fastapi import FastAPI, Path, Request
from pydantic import Field

from wardround.identity import site_name
from wardround.orders import SiteId
from wardround.plain_text import plain_text
from wardround.server.api.admission import session_of
from wardround.server.api.answers import Form, Name, Refusal, refusals
from wardround.server.api.services import Services
from wardround.server.state.certificates import Certificate, CertificateKind
from wardround.server.state.invitations import InvitationRow

__all__ = ["add_site_routes"]


class Invite(Form):
    site: Name


class InvitationMade(Form):
    invitation: str = Field(description="The line for the hospital: a secret until it is used, and shown once.")
    site: str


class InvitationShown(Form):
    id: str
    site: str
    state: str = Field(description="open, used, expired or withdrawn")
    created: datetime
    created_by: str
    expires: datetime
    used_at: datetime | None
    used_by_fingerprint: str | None


class Client(Form):
    name: str
    fingerprint: str
    state: str
    present: bool
    joined: datetime
    last_seen: datetime | None
    revoked_at: datetime | None
    software: str
    certificate_ends: datetime | None = Field(description="Of the newest certificate for connections.")


class Revoke(Form):
    site: Name
    reason: Annotated[str, Field(max_length=200)] = ""


class Done(Form):
    done: bool


def add_site_routes(app: FastAPI, services: Services) -> None:
    """The routes on invitations and clients."""

    @app.get("/api/v1/invitations", responses=refusals(401, 403), tags=["sites"])
    def invitations() -> list[InvitationShown]:
        """Every invitation, the oldest first; never a token."""
        now = services.clock()
        return [_invitation(one, now) for one in services.invitations.list()]

    @app.post("/api/v1/invitations", status_code=201, responses=refusals(401, 403, 409), tags=["sites"])
    def invite(body: Invite, request: Request) -> InvitationMade:
        """Invite a site."""
        site = _site(body.site)
        made = services.enrolment.invite(site, by=session_of(request.scope).account.name)
        return InvitationMade(invitation=made.text(), site=site)

    @app.post("/api/v1/invitations/{invitation}/withdraw", responses=refusals(401, 403, 404, 409), tags=["sites"])
    def withdraw(invitation: Annotated[str, Path(pattern="^[0-9a-f]{32}$")], request: Request) -> Done:
        """Let an invitation not be used any more."""
        found, now = services.invitations.get(invitation), services.clock()
        if found is None:
            raise Refusal(404, "there is no such invitation")
        if not services.enrolment.withdraw(invitation, by=session_of(request.scope).account.name):
            raise Refusal(409, f"expected an open invitation, got one that is {_state(found, now)}")
        return Done(done=True)

    @app.get("/api/v1/clients", responses=refusals(401, 403), tags=["sites"])
    def clients() -> list[Client]:
        """Every site that has joined."""
        present = services.presence.present()
        return [
            Client(
                name=site.name,
                fingerprint=site.fingerprint,
                state=site.state.value,
                present=site.name in present,
                joined=site.joined,
                last_seen=site.last_seen,
                revoked_at=site.revoked_at,
                software=site.software,
                certificate_ends=_ends(services.certificates.of_site(site.name, CertificateKind.TLS)),
            )
            for site in services.sites.list()
        ]

    @app.post("/api/v1/clients/revoke", responses=refusals(401, 403, 404, 409), tags=["sites"])
    def revoke(body: Revoke, request: Request) -> Done:
        """Let a site take part no more, from its next frame on."""
        site = _site(body.site)
        if services.sites.get(site) is None:
            raise Refusal(404, f"there is no site {plain_text(site)!r}; `wardround server clients` lists them")
        by = session_of(request.scope).account.name
        if not services.enrolment.revoke(site, by=by, reason=plain_text(body.reason)):
            raise Refusal(409, f"{site}: is revoked already")
        return Done(done=True)


def _site(text: str) -> SiteId:
    try:
        return site_name(text)
    except ValueError as error:
        raise Refusal(422, f"site: {error}") from None


def _invitation(row: InvitationRow, now: datetime) -> InvitationShown:
    return InvitationShown(
        id=row.id,
        site=row.site,
        state=_state(row, now),
        created=row.created,
        created_by=row.created_by,
        expires=row.expires,
        used_at=row.used_at,
        used_by_fingerprint=row.used_by_fingerprint,
    )


def _state(row: InvitationRow, now: datetime) -> str:
    if row.used_at is not None:
        return "used"
    if row.withdrawn is not None:
        return "withdrawn"
    return "open" if now < row.expires else "expired"


def _ends(certificates: Iterable[Certificate]) -> datetime | None:
    return max((one.not_after for one in certificates if one.revoked_at is None), default=None)
