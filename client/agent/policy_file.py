"""The site's policy as it lies in its folder: read whenever it may have changed, replaced as a whole."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from wardround.client.agent.site_folder import SiteFolder
from wardround.client.agent.site_log import note
from wardround.errors import LocalError
from wardround.plain_text import plain_text

if TYPE_CHECKING:
    from wardround.client.guard.policy import SitePolicy

__all__ = ["PolicyFile"]

_NAME = "policy.toml"
_LOCK = "policy.lock"
_NOTED = "policy.noted"
"""The policy that the audit log speaks of last."""
_BY_HAND = "unknown (file)"

Stamp = tuple[int, ...]


class PolicyFile:
    """policy.toml of the site of `folder`; without one every rule is open, unless rules were set before.

    A change by hand is written to the audit log when it is read first, before it takes effect.
    """

    __slots__ = ("_folder", "_known")

    def __init__(self, folder: SiteFolder) -> None:
        self._folder = folder
        self._known: tuple[Stamp, SitePolicy] | None = None

    def stamp(self) -> Stamp:
        """Another value after each change of the policy."""
        try:
            found = os.stat(self._folder.path / _NAME, follow_symlinks=False)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise LocalError(f"{self._folder.path / _NAME}: cannot be read ({error.strerror})") from None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def read(self) -> "SitePolicy":
        """The policy as it is now. Raises LocalError for a file that is none, or gone: then nothing may be done."""
        stamp = self.stamp()
        if self._known is None or self._known[0] != stamp:
            policy = self._there()
            # who only looks, as root, leaves no file of its own here: the agent could not read it
            if policy != self._noted() and os.geteuid() == os.stat(self._folder.path).st_uid:
                with self._folder.alone(_LOCK):
                    policy = self._there_and_noted()
            self._known = stamp, policy
        return self._known[1]

    def _there(self) -> "SitePolicy":
        from wardround.client.guard.policy import SitePolicy, parse_policy

        if self.stamp():
            return parse_policy(self._folder.read(_NAME))
        if self._noted() != SitePolicy():
            raise LocalError(
                f"{self._folder.path / _NAME}: is missing, and rules were set; restore it, or set a rule again, which "
                "brings the others back: wardround client policy set"
            )
        return SitePolicy()

    def _noted(self) -> "SitePolicy":
        from wardround.client.guard.policy import SitePolicy, parse_policy

        if not (self._folder.path / _NOTED).exists():
            return SitePolicy()
        try:
            return parse_policy(self._folder.read(_NOTED))
        except LocalError as error:
            raise LocalError(
                f"{self._folder.path / _NOTED}: is damaged ({error}); delete it, and read policy.toml"
            ) from None

    def _there_and_noted(self) -> "SitePolicy":
        """The policy, once the log has what was changed by hand. The lock is held."""
        old, new = self._noted(), self._there()
        if old != new:
            note(self._folder, "policy.changed", "policy", by=_BY_HAND, changes=_changes(old, new))
            self._folder.write(_NOTED, new.to_toml())
        return new

    def change(self, change: "Callable[[SitePolicy], SitePolicy]", *, by: str) -> "tuple[SitePolicy, SitePolicy]":
        """Replace the policy by what `change` makes of it, durably, and tell the agent; (old, new).

        It is in the audit log, with who decided it (`by`), before it takes effect. Two administrators at once come one
        after another. What raises changes nothing.
        """
        with self._folder.alone(_LOCK):
            old = self._there_and_noted() if self.stamp() else self._noted()
            new = change(old)
            if old != new:
                note(self._folder, "policy.changed", "policy", by=by, changes=_changes(old, new))
            self._folder.write(_NAME, new.to_toml())
            self._folder.write(_NOTED, new.to_toml())
            self._folder.touch()
        return old, new


def _changes(old: "SitePolicy", new: "SitePolicy") -> dict[str, list[str | None]]:
    """Each rule that differs: what it was and what it is; None where it is open."""
    before, after = dict(old.stated()), dict(new.stated())
    names = [name for name in before | after if before.get(name) != after.get(name)]
    return {name: [_short(before.get(name)), _short(after.get(name))] for name in names}


def _short(value: str | None) -> str | None:
    return None if value is None else plain_text(value, 500)
