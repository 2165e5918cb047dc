"""How a site leaves a federation: its keys and what it kept of runs are erased, what was spent on its data is not.

Its audit log is signed with those keys, so it is made a bundle for an auditor first, `audit-TIME.zip` in the folder.
With the plans go the keys of sealed models: what the site wants of these it opens before (`client model open`).
"""

import os
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from wardround.client.agent.plan_store import PlanStore
from wardround.client.agent.site_folder import SiteFolder
from wardround.client.agent.site_log import audit_folder, export_log, note
from wardround.client.agent.site_run import finish_run
from wardround.clock import utc_now
from wardround.durable_file import TEMPORARY, sync_folder
from wardround.errors import LocalError

__all__ = ["depart"]

_FIRST = "site.json"
_ERASED = (
    "signing-key",
    "state-key",
    "tls-identity.pem",
    "tls-authority.pem",
    "identity.der",
    "identity-authority.der",
    "revocations.der",
    "revocations-number",
    "changed",
    "data.lock",
    "plans.lock",
    "policy.lock",
    "withdrawn.lock",
)
_FOLDERS = ("plans", "pins", "runs", "jobs")


def depart(folder: SiteFolder, goodbye: Callable[[], None], now: Callable[[], datetime] = utc_now) -> Path:
    """Leave; the bundle of the audit log. Raises LocalError while the agent runs, and what `goodbye` raises: then
    nothing is erased.

    `goodbye` tells the server, while there is a key to tell it with; after a crash it is told again. Open runs are
    ended first, so that what they reserved and never began is free again. A folder without site.json has not joined:
    after a crash in the middle `join` makes new keys.
    """
    with folder.lock():
        goodbye()
        plans = PlanStore(folder)
        for run in list(plans.open_runs()):
            finish_run(folder, run, "the site has left")
        bundle = folder.path / f"audit-{now():%Y%m%dT%H%M%SZ}.zip"
        note(folder, "site.left", folder.name)
        export_log(folder, bundle, now())
        try:
            os.rename(audit_folder(folder), folder.path / f"{TEMPORARY}audit")
            (folder.path / _FIRST).unlink()
            sync_folder(folder.path)
            for name in _ERASED:
                (folder.path / name).unlink(missing_ok=True)
            for name in (*_FOLDERS, f"{TEMPORARY}audit"):
                shutil.rmtree(folder.path / name, ignore_errors=True)
            sync_folder(folder.path)
        except OSError as error:
            raise LocalError(f"{folder.path}: cannot be erased ({error.strerror}); erase it by hand") from None
    return bundle
