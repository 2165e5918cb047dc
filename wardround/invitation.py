"""An invitation: the line that a coordinator hands to a hospital, and that `wardround client join` takes.

    https://fl.example.org:8443#<base64url, without padding, of token, authority and check>

`token` is 16 random bytes of one use, `authority` the SHA-256 of the certificate (DER) of the server's TLS authority,
`check` the first 4 bytes of the SHA-256 of `wardround invitation 1`, a zero byte, the URL and the two. The check is
against slips of the hand; who changes the line on purpose changes it, too. What follows `#` is sent by no browser.
"""

import base64
import binascii
import hashlib
import hmac
import re
import string
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import urlsplit

from wardround.errors import LocalError
from wardround.plain_text import plain_text

__all__ = [
    "TOKEN_BYTES",
    "Invitation",
    "InvitationError",
    "canonical_url",
    "check_host",
    "host_and_port",
    "read_invitation",
    "token_hash",
]

TOKEN_BYTES = 16
_DIGEST_BYTES, _CHECK_BYTES = 32, 4
_SECRET_LETTERS = 70  # of 52 bytes
_MOST_LETTERS = 1024
_BASE64URL = frozenset(string.ascii_letters + string.digits + "-_")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


class InvitationError(LocalError):
    """The text is no invitation, or not all of one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """Where a server is (`https://HOST:PORT`), the token for one site, and whose certificate the server has."""

    url: str
    token: bytes = field(repr=False)
    authority: bytes

    def __post_init__(self) -> None:
        if self.url != canonical_url(self.url):
            raise ValueError(f"expected https://HOST:PORT, got {plain_text(self.url)!r}")
        if len(self.token) != TOKEN_BYTES or len(self.authority) != _DIGEST_BYTES:
            raise ValueError(f"expected a token of {TOKEN_BYTES} bytes and a fingerprint of {_DIGEST_BYTES}")

    def text(self) -> str:
        """The line to hand over: a secret until it is used."""
        secret = self.token + self.authority + _check(self.url, self.token, self.authority)
        return f"{self.url}#{base64.urlsafe_b64encode(secret).decode().rstrip('=')}"


def read_invitation(text: str) -> Invitation:
    """The invitation in a line. InvitationError, without the token in its text, for one that is cut or mistyped."""
    text = text.strip()
    if len(text) > _MOST_LETTERS:
        raise InvitationError(f"invitation: expected one line of at most {_MOST_LETTERS} letters, got {len(text)}")
    address, mark, secret = text.partition("#")
    if not address.lower().startswith("https://"):
        raise InvitationError(
            f"invitation: expected https://HOST:PORT#..., got {plain_text(address, 80)!r}; copy the whole line"
        )
    try:
        url = canonical_url(address)
    except ValueError as error:
        raise InvitationError(f"invitation: {error}; copy the whole line") from None
    if not mark or not secret:
        raise InvitationError(
            "invitation: the part after # is missing; put the whole line between quotes, so that the shell keeps it"
        )
    if strangers := sorted(set(secret) - _BASE64URL):
        got = "a blank or a line's end" if strangers[0].isspace() else repr(plain_text(strangers[0]))
        raise InvitationError(f"invitation: expected letters, digits, - and _ after #, got {got}; copy it again")
    if len(secret) != _SECRET_LETTERS:
        what = "the end is cut off" if len(secret) < _SECRET_LETTERS else "there is more than the invitation"
        raise InvitationError(
            f"invitation: expected {_SECRET_LETTERS} letters after #, got {len(secret)}: {what}; copy the whole line"
        )
    try:
        data = base64.urlsafe_b64decode(secret + "=" * (-len(secret) % 4))
    except binascii.Error:  # cannot be: the letters and their number are right
        data = b""
    token, authority = data[:TOKEN_BYTES], data[TOKEN_BYTES:-_CHECK_BYTES]
    # one spelling only: the last letter has bits to spare
    spelt = base64.urlsafe_b64encode(data).decode().rstrip("=") == secret
    if not spelt or not hmac.compare_digest(data[-_CHECK_BYTES:], _check(url, token, authority)):
        raise InvitationError(
            f"invitation: its check does not fit: a letter is wrong, in the address ({url}) or after #; copy it again"
        )
    return Invitation(url=url, token=token, authority=authority)


def token_hash(token: bytes) -> bytes:
    """What a server keeps of a token, and what a join's proof is bound to."""
    return hashlib.sha256(b"wardround token 1\0" + token).digest()


def host_and_port(url: str) -> tuple[str, int]:
    """Of a URL as an `Invitation` has it; an IPv6 address is without its brackets."""
    parts = urlsplit(url)
    if parts.hostname is None or parts.port is None:
        raise ValueError(f"expected https://HOST:PORT, got {plain_text(url)!r}")
    return parts.hostname, parts.port


def check_host(host: str) -> str:
    """`host` in lower case. ValueError unless it is an IP address or a host name in ASCII, as in DNS."""
    host = host.lower()
    try:
        return str(ip_address(host))
    except ValueError:
        labels = host.split(".")
        if len(host) > 253 or not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdigit():
            raise ValueError(f"expected a host name or an IP address, got {plain_text(host, 80)!r}") from None
        return host


def canonical_url(address: str) -> str:
    """`https://HOST:PORT` in its one spelling: lower case, with its port. ValueError for what is none."""
    parts = urlsplit(address)
    try:
        port = parts.port
    except ValueError:
        raise ValueError("expected a port of 1 to 65535") from None
    if parts.scheme != "https" or not parts.hostname or port == 0:
        raise ValueError("expected https://HOST:PORT")
    if parts.path not in ("", "/") or parts.query or "@" in parts.netloc:
        raise ValueError("expected a host and a port alone before #")
    host = check_host(parts.hostname)
    return f"https://{f'[{host}]' if ':' in host else host}:{port or 443}"


def _check(url: str, token: bytes, authority: bytes) -> bytes:
    return hashlib.sha256(b"wardround invitation 1\0" + url.encode() + token + authority).digest()[:_CHECK_BYTES]
