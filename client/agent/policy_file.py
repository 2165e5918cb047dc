"""The site's policy as it lies in its folder: read whenever it may have changed, replaced as a whole."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

Stamp = tuple[int, ...]


class PolicyFile:
    """policy.toml of the site of `folder`; without one every rule is open."""

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
        """The policy as it is now. Raises LocalError for a file that is none: then nothing may be done."""
        from wardround.client.guard.policy import SitePolicy, parse_policy

        stamp = self.stamp()
        if self._known is None or self._known[0] != stamp:
            self._known = stamp, parse_policy(self._folder.read(_NAME)) if stamp else SitePolicy()
        return self._known[1]

    def change(self, change: "Callable[[SitePolicy], SitePolicy]", *, by: str) -> "tuple[SitePolicy, SitePolicy]":
        """Replace the policy by what `change` makes of it, durably, and tell the agent; (old, new).

        It is in the audit log, with who decided it (`by`), before it takes effect. Two administrators at once come one
        after another. What raises changes nothing.
        """
        with self._locked():
            old = self.read()
            new = change(old)
            if old != new:
                note(self._folder, "policy.changed", "policy", by=by, changes=_changes(old, new))
            self._folder.write(_NAME, new.to_toml())
            self._folder.touch()
        return old, new

    @contextmanager
    def _locked(self) -> Iterator[None]:
        path = self._folder.path / _LOCK
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LocalError(f"{path}: cannot be opened ({error.strerror})") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _changes(old: "SitePolicy", new: "SitePolicy") -> dict[str, list[str | None]]:
    """Each rule that differs: what it was and what it is; None where it is open."""
    before, after = dict(old.stated()), dict(new.stated())
    names = [name for name in before | after if before.get(name) != after.get(name)]
    return {name: [_short(before.get(name)), _short(after.get(name))] for name in names}


def _short(value: str | None) -> str | None:
    return None if value is None else plain_text(value, 500)
