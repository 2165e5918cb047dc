"""The certificate by which a signature of a site can be checked later, among those that it was issued."""

from collections.abc import Sequence
from datetime import datetime

from wardround.errors import RemoteError
from wardround.evidence_identity import signer
from wardround.identity import Authority
from wardround.orders import SiteId
from wardround.server.state.certificates import Certificate
from wardround.signing_key import check_signature

__all__ = ["certificate_of"]


def certificate_of(
    site: SiteId, issued: Sequence[Certificate], authority: Authority, *, at: datetime, signature: bytes, data: bytes
) -> bytes | None:
    """The certificate, DER, that was valid at `at` and whose key has signed `data`; None where there is none."""
    for one in reversed(issued):  # the newest is the likeliest
        try:
            check_signature(signer(authority, one.der, site, at), signature, data, site)
        except RemoteError:
            continue
        return one.der
    return None
