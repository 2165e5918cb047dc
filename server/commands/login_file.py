"""Where a coordinator is logged in: the server, whose certificate it has, and the session's token. Its owner's only."""

import json
import os
import stat
from dataclasses import asdict, dataclass, field
from pathlib import Path

from wardround.durable_file import replace_file
from wardround.errors import LocalError

__all__ = ["LoginFile", "login_path", "read_login", "remove_login", "write_login"]

_MOST_BYTES = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginFile:
    """`authority` is a certificate, PEM; `url` is https://HOST:PORT."""

    url: str
    authority: str
    token: str = field(repr=False)

    def __post_init__(self) -> None:
        if not all(isinstance(one, str) for one in (self.url, self.authority, self.token)):
            raise ValueError("expected texts")


def login_path() -> Path:
    """$WARDROUND_LOGIN, else `wardround/login.json` in the XDG configuration home."""
    if named := os.environ.get("WARDROUND_LOGIN"):
        return Path(named)
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "wardround" / "login.json"


def read_login() -> LoginFile:
    """The login. LocalError where there is none, or others may read it."""
    path = login_path()
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            mode, data = stat.S_IMODE(os.fstat(descriptor).st_mode), file.read(_MOST_BYTES)
    except FileNotFoundError:
        raise LocalError("expected a login; log in: wardround login URL") from None
    except OSError as error:
        raise LocalError(f"{path}: cannot be read ({error.strerror})") from None
    if mode & 0o077:
        raise LocalError(f"{path}: others may read or write it; delete it and log in again")
    try:
        return LoginFile(**json.loads(data))
    except (ValueError, TypeError):
        raise LocalError(f"{path}: expected a login; delete it and log in again") from None


def write_login(login: LoginFile) -> None:
    """Keep the login, for this user alone."""
    path = login_path()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(path, json.dumps(asdict(login), indent=1).encode() + b"\n", mode=0o600)
    except OSError as error:
        raise LocalError(f"{path}: cannot be written ({error.strerror})") from None


def remove_login() -> None:
    """Forget the login."""
    login_path().unlink(missing_ok=True)
