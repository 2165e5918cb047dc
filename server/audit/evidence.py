"""The audit log in a state folder, checked and handed out: it needs neither the server nor its secret."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from wardround.audit.bundle import Certified, write_bundle
from wardround.audit.log import LOG_FILE, last_head
from wardround.audit.verify import SeenHead, Verified, verify_file
from wardround.evidence_identity import RESERVED_SERVER_NAME, signer
from wardround.identity import Authority
from wardround.server.state.cosignatures import CoSignatures
from wardround.server.state.database import Database
from wardround.server.state.folder import StateFolder

__all__ = ["export_audit_log", "verify_audit_log"]


def verify_audit_log(folder: StateFolder, database: Database) -> tuple[Verified, dict[str, int]]:
    """The log, whole and through every co-signed head; how many records each site has co-signed.

    Raises RemoteError with the first bad record. The server may run meanwhile.
    """
    path, authority = folder.audit / LOG_FILE, Authority(folder.identity_authority())
    seen: list[SeenHead] = []
    counts: dict[str, int] = {}
    for one in CoSignatures(database).all(last_head(path).log):
        cosigned = one.cosigned
        cosigned.check(signer(authority, one.certificate, cosigned.site, cosigned.signed_at))
        seen.append(SeenHead(head=cosigned.head, by=f"by {cosigned.site!r}"))
        counts[cosigned.site] = max(cosigned.head.seq, counts.get(cosigned.site, 0))
    return verify_file(path, authority, heads=seen), counts


def export_audit_log(folder: StateFolder, database: Database, out: Path, now: datetime) -> int:
    """Write the log up to its last seal, and all co-signatures, to the new file `out`; how many there are of those.

    LocalError where there is no log yet, or `out` cannot be written.
    """
    path = folder.audit / LOG_FILE
    head = last_head(path)
    count = 0

    def known() -> Iterator[Certified]:
        nonlocal count
        for one in CoSignatures(database).all(head.log):
            if one.cosigned.head.seq <= head.seq:  # not one of what the server has appended since
                count += 1
                yield one

    write_bundle(out, path, head=head, name=RESERVED_SERVER_NAME, now=now, cosigned=known())
    return count
