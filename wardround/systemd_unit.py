"""A systemd unit as text, and its file: written and removed here, while systemd itself is left to who asks for it."""

import os
import pwd
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wardround.durable_file import replace_file
from wardround.errors import LocalError
from wardround.plain_text import plain_text

__all__ = ["Setting", "Unit", "owner_of", "program", "quoted", "systemctl", "uninstall", "unit_folder"]

_SYSTEM_FOLDER = Path("/etc/systemd/system")
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./=:,+@")
_OF_THE_UNIT_ALONE = ("/tmp", "/var/tmp")  # noqa: S108 (PrivateTmp= hides them)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One line of a unit; `why` is the comment above it, and covers the lines after it that have none."""

    name: str
    value: str
    why: str = ""


def quoted(word: str) -> str:
    """One word as a unit has it (systemd.syntax(7)). Raises LocalError for what no unit can hold on one line."""
    if not word.isprintable():
        raise LocalError(f"{plain_text(word)!r}: expected printable letters alone, to write them into a unit")
    word = word.replace("%", "%%")
    if word and set(word) <= _PLAIN | {"%"}:
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def program() -> tuple[str, ...]:
    """How this wardround is started: its script, else its Python."""
    script = Path(sys.executable).parent / "wardround"
    return (str(script),) if os.access(script, os.X_OK) else (sys.executable, "-P", "-m", "wardround.cli")


def owner_of(folder: Path) -> str:
    """The user whose a state folder is, and as whom its service runs. Raises LocalError for root, and for none."""
    try:
        number = folder.lstat().st_uid
        name = pwd.getpwuid(number).pw_name
    except KeyError:
        raise LocalError(
            f"{folder}: belongs to user {number}, who has no name; give it to a user who has one"
        ) from None
    except OSError as error:
        raise LocalError(f"{folder}: cannot be looked at ({error.strerror}); name the folder with --state") from None
    if number == 0:
        raise LocalError(
            f"{folder}: belongs to root; make a user for the service, and give the folder to it: useradd --system "
            f"wardround && chown -R wardround: {folder}"
        )
    return name


def unit_folder(user: bool, environment: Mapping[str, str]) -> Path:
    """Where units lie: the system's, or those of this user."""
    if not user:
        return _SYSTEM_FOLDER
    config = environment.get("XDG_CONFIG_HOME")
    return (Path(config) if config else Path.home() / ".config") / "systemd" / "user"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A service that goes on by itself. `user` is whose the system runs it as; None for a unit of this user's own.

    `state` is the folder that it writes, `writable` are others. `settings` come after those that every unit here has.
    """

    name: str
    description: str
    command: Sequence[str]
    user: str | None
    state: Path
    writable: Sequence[Path] = ()
    after: Sequence[str] = ()
    environment_file: str
    settings: Sequence[Setting]
    made_by: str

    def __post_init__(self) -> None:
        for path in (self.state, *self.writable):
            if any(path.is_relative_to(one) for one in _OF_THE_UNIT_ALONE):
                raise LocalError(f"{path}: expected another place than /tmp, which a service has for itself alone")

    @property
    def file_name(self) -> str:
        return f"{self.name}.service"

    def text(self) -> str:
        """The unit, with the reason of each setting."""
        folders = [quoted(str(path)) for path in (self.state, *self.writable)]
        lines = [self._mark, "", "[Unit]", f"Description={self.description}"]
        if self.user is not None:
            after = " ".join(("network-online.target", *self.after))
            lines += [f"After={after}", "Wants=network-online.target"]
        lines += [f"RequiresMountsFor={' '.join(folders)}", "", "[Service]", "Type=exec"]
        if self.user is not None:
            lines.append(f"User={quoted(self.user)}")
        lines += [
            "# With : no variable is put in the place of $NAME.",
            f"ExecStart=:{' '.join(map(quoted, self.command))}",
            "# HTTPS_PROXY, say, which may hold a password: everybody can read a unit, but not this file (mode 0600).",
            f"EnvironmentFile=-{self.environment_file}",
        ]
        for one in self.settings:
            lines += [f"# {one.why}"] * bool(one.why)
            lines.append(f"{one.name}={one.value}")
        if self.user is not None:
            lines += [
                "# The whole system is read-only for it, but these.",
                "ProtectSystem=strict",
                f"ReadWritePaths={' '.join(folders)}",
            ]
        target = "default.target" if self.user is None else "multi-user.target"
        return "\n".join([*lines, "", "[Install]", f"WantedBy={target}", ""])

    @property
    def _mark(self) -> str:
        return f"# Written by `{self.made_by} install`. Put changes into a drop-in: systemctl edit {self.file_name}"

    def install(self, folder: Path) -> Path:
        """Write the unit; one that was written before is replaced. Raises LocalError for a file of somebody else."""
        path, data = folder / self.file_name, self.text().encode()
        self._check_ours(path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            replace_file(path, data, mode=0o644)
        except OSError as error:
            raise LocalError(
                f"{path}: cannot be written ({error.strerror}); run this as root, or with --user"
            ) from None
        return path

    def _check_ours(self, path: Path) -> None:
        found = _text_of(path)
        if found is not None and not found.startswith(self._mark):
            raise LocalError(f"{path}: is there, and was not written by `{self.made_by} install`; take it away first")


def uninstall(name: str, made_by: str, folder: Path, *, user: bool) -> Path:
    """Remove a unit that was installed. Raises LocalError for none, one of somebody else, and one that is enabled."""
    path = folder / f"{name}.service"
    found = _text_of(path)
    if found is None:
        raise LocalError(f"{path}: is not there")
    if not found.startswith(f"# Written by `{made_by} install`"):
        raise LocalError(f"{path}: was not written by `{made_by} install`; it stays")
    if any(os.path.lexists(wants / path.name) for wants in folder.glob("*.wants")):
        raise LocalError(f"{path}: is enabled; first: {systemctl(user)} disable --now {path.name}")
    try:
        path.unlink()
    except OSError as error:
        raise LocalError(f"{path}: cannot be removed ({error.strerror}); run this as root, or with --user") from None
    return path


def systemctl(user: bool) -> str:
    return "systemctl --user" if user else "systemctl"


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LocalError(f"{path}: cannot be read ({error.strerror})") from None
