"""The certificate of the key that the server signs with, in its state folder: what an auditor checks signatures by."""

import os
from collections.abc import Callable

from wardround.clock import utc_now
from wardround.durable_file import replace_file
from wardround.errors import LocalError, RemoteError
from wardround.evidence_identity import RESERVED_SERVER_NAME, issue_server_certificate, signer
from wardround.identity import Authority
from wardround.server.state.folder import SIGNING_FILE, StateFolder
from wardround.server.state.keyring import Keyring

__all__ = ["signing_certificate"]


def signing_certificate(folder: StateFolder, keyring: Keyring, *, random: Callable[[int], bytes] = os.urandom) -> bytes:
    """The certificate (DER) of the keyring's signing key; issued, and kept, where there is none for it yet."""
    authority, kept = folder.identity_authority(), folder.signing_certificate()
    if kept is not None:
        try:
            if signer(Authority(authority), kept, RESERVED_SERVER_NAME, utc_now()) == keyring.signing.public:
                return kept
        except RemoteError:  # damaged: it is made again from what is not
            pass
    made = issue_server_certificate(authority, keyring.identity_authority, keyring.signing.public, random=random)
    path = folder.path / SIGNING_FILE
    try:
        replace_file(path, made, mode=0o600)
    except OSError as error:
        raise LocalError(f"{path}: cannot be written ({error.strerror})") from None
    return made
