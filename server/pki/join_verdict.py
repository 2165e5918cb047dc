"""What a server decides about a site that wants to join: a pure function of what it knows, and of the time."""

from datetime import datetime

from wardround.errors import RemoteError
from wardround.join_messages import JoinRefusal
from wardround.orders import SiteId
from wardround.server.state.invitations import InvitationRow
from wardround.server.state.sites import Site, SiteState

__all__ = ["JoinRefusedError", "judge_join"]

_TEXTS = {
    JoinRefusal.UNKNOWN: "expected a token of this server, got another; ask the coordinator for a new invitation",
    JoinRefusal.USED: "the invitation was used; if that was not you, tell the coordinator at once",
    JoinRefusal.EXPIRED: "the invitation has expired; ask the coordinator for a new one",
    JoinRefusal.WITHDRAWN: "the invitation was withdrawn; ask the coordinator for a new one",
    JoinRefusal.NAME_TAKEN: "a site of this name takes part already; ask the coordinator",
    JoinRefusal.KEY_TAKEN: "expected keys that are new, got some of another site or of one that was revoked; join in a "
    "new folder",
    JoinRefusal.WRONG_NAME: "the invitation is for another name; ask the coordinator",
}


class JoinRefusedError(RemoteError):
    """A site may not join. `used_at` says when its invitation was used, where it was. The text goes to the site."""

    def __init__(self, refusal: JoinRefusal, *, text: str = "", used_at: datetime | None = None) -> None:
        super().__init__(text or _TEXTS[refusal])
        self.refusal, self.used_at = refusal, used_at


def judge_join(
    invitation: InvitationRow | None,
    *,
    asked_name: SiteId | None,
    fingerprint: str,
    repeated: bool,
    site: Site | None,
    had_before: bool,
    now: datetime,
) -> JoinRefusal | None:
    """Why not, or None where the site may join, or is given once more what it was given.

    `fingerprint` is of its signing key; `repeated` says that certificates for this key and for that of its connections
    are there, and good; `had_before` that a site of this name had one of the two already. `site` has the invitation's
    name.
    """
    if invitation is None:
        return JoinRefusal.UNKNOWN
    if invitation.withdrawn is not None:
        return JoinRefusal.WITHDRAWN
    if asked_name is not None and asked_name != invitation.site:
        return JoinRefusal.WRONG_NAME
    active = site if site is not None and site.state is SiteState.ACTIVE else None
    if invitation.used_at is not None:
        same = invitation.used_by_fingerprint == fingerprint
        return (
            None if same and repeated and active is not None and active.fingerprint == fingerprint else JoinRefusal.USED
        )
    if invitation.expires <= now:
        return JoinRefusal.EXPIRED
    if active is not None:
        return JoinRefusal.NAME_TAKEN
    if had_before:
        return JoinRefusal.KEY_TAKEN
    return None
