"""The site's own audit log: what was decided here, and what was done with the site's data.

It has names, numbers, digests and reasons; never a value of a patient, an update, or a secret.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from wardround.audit.log import AuditLog
    from wardround.client.agent.site_folder import SiteFolder

__all__ = ["audit_folder", "export_log", "note", "open_log"]


def audit_folder(folder: "SiteFolder") -> "Path":
    """Where the log lies."""
    return folder.path / "audit"


def open_log(folder: "SiteFolder") -> "AuditLog":
    """The log of the site of `folder`, for adding. LocalError where it was changed by somebody else."""
    from wardround.audit.log import AuditLog

    return AuditLog.open(
        audit_folder(folder), name=folder.name, key=folder.signing_key, certificate=folder.read("identity.der")
    )


def note(folder: "SiteFolder", kind: str, subject: str = "", /, **detail: Any) -> None:
    """Write one record, signed and on the disk on return: for what a person decides, before it takes effect."""
    log = open_log(folder)
    log.add(kind, subject, **detail)
    log.seal()


def export_log(folder: "SiteFolder", out: "Path", now: "datetime") -> None:
    """Write the bundle of the log to the new file `out`. LocalError where that cannot be."""
    from wardround.audit.bundle import write_bundle
    from wardround.audit.log import LOG_FILE

    head = open_log(folder).seal()
    write_bundle(out, audit_folder(folder) / LOG_FILE, head=head, name=folder.name, now=now)
