"""`wardround login` and `wardround logout`."""

import hashlib
import hmac
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wardround.errors import LocalError
from wardround.server.commands.login_file import LoginFile, login_path, read_login, remove_login, write_login

if TYPE_CHECKING:
    from wardround.server.commands.api_client import ApiClient

__all__ = ["app", "connect"]

app = typer.Typer(rich_markup_mode=None)


@app.command()
def login(
    url: Annotated[
        str | None,
        typer.Argument(
            metavar="URL",
            help="https://HOST:PORT#FINGERPRINT, as `server init` prints it.  [default: the server logged in to last, "
            "or that of this machine]",
        ),
    ] = None,
    name: Annotated[str, typer.Option(metavar="NAME", help="Your account.")] = "owner",
    password_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file of mode 0600 with the password.  [default: ask]")
    ] = None,
) -> None:
    """Log in to a server, for 12 hours."""
    from wardround.server.commands.api_client import ApiClient
    from wardround.server.commands.passphrase import password_from

    address, authority = _server(url)
    password = password_from(password_file, f"Password of {name}")
    client = ApiClient(address, authority)
    made = client.ask("POST", "/session", {"name": name, "password": password})
    until = made["expires"][:16].replace("T", " ")
    write_login(LoginFile(url=address, authority=authority, token=made["token"]))
    typer.echo(f"logged in to {address} as {made['account']['name']} until {until} UTC")


@app.command()
def logout() -> None:
    """Log out: end the session at the server, and forget it here."""
    if not login_path().exists():
        raise LocalError("expected a login, got none; you are logged out already")
    try:
        connect().ask("DELETE", "/session")
    except LocalError as error:
        typer.echo(f"the server was not told: {error}", err=True)  # the session ends there by itself
    remove_login()
    typer.echo("logged out")


def connect() -> "ApiClient":
    """The server that is logged in to."""
    from wardround.server.commands.api_client import ApiClient

    found = read_login()
    return ApiClient(found.url, found.authority, found.token)


def _server(url: str | None) -> tuple[str, str]:
    """The address and the authority (PEM) of the server that is meant."""
    from wardround.invitation import check_host, host_and_port
    from wardround.server.commands.api_client import fetch_authority
    from wardround.tls_identity import pem_of

    if url is None:
        return _known()
    address, _, fingerprint = url.partition("#")
    try:
        host, port = host_and_port(address.rstrip("/"))
        host = check_host(host)
    except ValueError:
        raise LocalError(f"expected https://HOST:PORT, got {address[:80]!r}") from None
    if not address.lower().startswith("https://"):
        raise LocalError(f"expected https://HOST:PORT, got {address[:80]!r}")
    address = f"https://{f'[{host}]' if ':' in host else host}:{port}"
    der = fetch_authority(address)
    found = hashlib.sha256(der).hexdigest()
    if fingerprint:
        if not hmac.compare_digest(fingerprint.lower().encode(), found.encode()):
            raise LocalError(
                f"{address}: expected the authority {fingerprint[:16]}..., got {found[:16]}...; ask who runs it"
            )
    elif not sys.stdin.isatty():
        raise LocalError("expected https://HOST:PORT#FINGERPRINT, as `server init` prints it: here nobody can be asked")
    else:
        typer.echo(f"{address} says that its authority is\n{found}", err=True)
        if not typer.confirm("Is that what `wardround server init` printed?", err=True):
            raise LocalError("not logged in: ask who runs the server for its fingerprint")
    return address, pem_of(der).decode()


def _known() -> tuple[str, str]:
    """The server logged in to last, or that of this machine."""
    from wardround.server.state.folder import StateFolder, default_state
    from wardround.tls_identity import pem_of

    if login_path().exists():
        found = read_login()
        return found.url, found.authority
    try:
        folder = StateFolder.open(default_state())
    except LocalError:
        raise LocalError("expected https://HOST:PORT#FINGERPRINT, as `server init` prints it") from None
    from wardround.server.pki.enrolment import ServerAddress

    settings = folder.settings
    address = ServerAddress.of(settings)
    return address.url, pem_of(folder.tls_authority()).decode()
