"""What a site opens sealed models with: the archive keys of a run's epochs, `archive.json` beside the run's plan.

A key is durable before the server is told that this site has the epoch's key, and outlives the run: whoever can read
the file can open the run's released model, and nothing else. More than the newest epoch is kept, since a server may
have to seal to an older one: a site that took a key does not learn whether too few others did. It goes with the plan's
folder, when the site leaves.
"""

import json

from wardround.client.agent.plan_store import PlanStore
from wardround.client.agent.site_folder import SiteFolder
from wardround.errors import LocalError
from wardround.plain_text import plain_text
from wardround.strategies.he.sealed_model import ArchiveKey, SealedModel

__all__ = ["archive_key", "keep_archive", "runs_with_archive"]

_FILE = "archive.json"
_MOST_EPOCHS = 64
_KEY_BYTES = 32


def keep_archive(folder: SiteFolder, key: ArchiveKey) -> None:
    """Keep the key of an epoch, durable on return; the same again changes nothing."""
    kept = _kept(folder, key.run)
    if key not in kept:
        newest = sorted([*kept, key], key=lambda one: one.epoch)[-_MOST_EPOCHS:]
        rows = [
            {"epoch": one.epoch, "fingerprint": one.fingerprint.hex(), "private": one.private.hex()} for one in newest
        ]
        folder.write(f"plans/{key.run}/{_FILE}", json.dumps({"version": 1, "keys": rows}).encode())


def archive_key(folder: SiteFolder, sealed: SealedModel) -> ArchiveKey:
    """The key that opens `sealed`. Raises LocalError, with the reason, where this site has none."""
    run, site = plain_text(sealed.run, 80), folder.name
    if not PlanStore(folder).knows(sealed.run):
        raise LocalError(f"run {run}: expected a model of a run that was offered to {site}, got one of another run")
    kept = _kept(folder, sealed.run)
    if not kept:
        raise LocalError(f"run {run}: {site} was in no epoch of it, and has no key; ask a member that was")
    for key in kept:
        if (key.epoch, key.fingerprint) == (sealed.epoch, sealed.fingerprint):
            return key
    epochs = ", ".join(str(one.epoch) for one in kept)
    raise LocalError(
        f"run {run}: expected a model that is sealed to the key of an epoch in which {site} was ({epochs}), got one of "
        f"epoch {sealed.epoch} and key {sealed.fingerprint.hex()[:16]}; ask a member that was in that epoch"
    )


def runs_with_archive(folder: SiteFolder) -> list[str]:
    """The runs whose sealed models this site may be able to open."""
    return [run for run in PlanStore(folder).names() if (folder.path / "plans" / run / _FILE).exists()]


def _kept(folder: SiteFolder, run: str) -> list[ArchiveKey]:
    path = folder.path / "plans" / run / _FILE
    if not path.exists():
        return []
    try:
        table = json.loads(folder.read(f"plans/{run}/{_FILE}"))
        keys = [
            ArchiveKey(
                run=run,
                epoch=int(one["epoch"]),
                fingerprint=bytes.fromhex(one["fingerprint"]),
                private=bytes.fromhex(one["private"]),
            )
            for one in table["keys"]
        ]
        if table["version"] != 1 or not all(len(one.private) == len(one.fingerprint) == _KEY_BYTES for one in keys):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):  # its text stays out of errors: it is secret
        raise LocalError(f"{path}: is damaged; restore it from a copy") from None
    return keys
