"""Secrets that a person types, or that lie in a file."""

import os
import secrets
import sys
from base64 import b64encode
from pathlib import Path

import typer

from wardround.errors import LocalError

__all__ = ["ask_secret", "made_key_file", "password_from", "secret_from"]

_LEAST_LETTERS = 16


def secret_from(passphrase_file: Path | None, key_file: Path | None, *, new: bool = False) -> bytes:
    """What opens the keyring: from a file, or asked for on the terminal, twice where it is `new`."""
    from wardround.server.state.keyring import read_key_file

    if passphrase_file is not None and key_file is not None:
        raise typer.BadParameter("either --passphrase-file or --key-file, not both")
    file = passphrase_file or key_file
    if file is not None:
        return read_key_file(file)
    text = ask_secret("Passphrase of the server", new=new, need="--key-file or --passphrase-file")
    if new and len(text) < _LEAST_LETTERS:
        raise LocalError(f"passphrase: expected {_LEAST_LETTERS} letters or more, got {len(text)}")
    return text.encode()


def made_key_file(path: Path) -> None:
    """Make a key file of 256 random bits, unless there is one; for this user alone."""
    if path.exists():
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(b64encode(secrets.token_bytes(32)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise LocalError(f"{path}: cannot be made ({error.strerror})") from None


def password_from(file: Path | None, prompt: str, *, new: bool = False) -> str:
    """A person's password: the first line of a file that others cannot read, or asked for on the terminal."""
    if file is None:
        return ask_secret(prompt, new=new, need="--password-file")
    try:
        if file.stat().st_mode & 0o077:
            raise LocalError(f"{file}: others may read or write it; chmod 600 it")
        with file.open("rb") as opened:
            return opened.read(4096).decode().splitlines()[0]
    except (UnicodeDecodeError, IndexError):
        raise LocalError(f"{file}: expected a password in the first line") from None
    except OSError as error:
        raise LocalError(f"{file}: cannot be read ({error.strerror})") from None


def ask_secret(prompt: str, *, new: bool, need: str) -> str:
    """Ask on the terminal without showing what is typed. LocalError where there is none."""
    if not sys.stdin.isatty():
        raise LocalError(f"expected a terminal to ask for it, or {need}")
    text: str = typer.prompt(prompt, hide_input=True, confirmation_prompt=new, err=True)
    return text
