"""What a site and a server say to each other when it joins, renews its certificates, and leaves. JSON, in base64.

Everything is checked for its form and its size here, and for nothing else: whoever reads it decides.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self

from wardround.errors import RemoteError
from wardround.identity import site_name
from wardround.invitation import TOKEN_BYTES, token_hash
from wardround.plain_text import plain_text
from wardround.site_id import SiteId

__all__ = [
    "AUTHORITY_PATH",
    "JOIN_PATH",
    "LEAVE_PATH",
    "AuthorityAnswer",
    "JoinAnswer",
    "JoinRefusal",
    "JoinRequest",
    "LeaveRequest",
    "RenewalAnswer",
    "RenewalRequest",
    "VersionError",
    "join_statement",
    "leave_statement",
    "renewal_statement",
]

AUTHORITY_PATH, JOIN_PATH, LEAVE_PATH = "/api/v1/authority", "/api/v1/join", "/api/v1/leave"
_VERSION = 1
_KEY_BYTES, _SIGNATURE_BYTES = 32, 64
_MOST_DER, _MOST_LIST = 4096, 1 << 20
_MOST_TEXT = 255


class JoinRefusal(StrEnum):
    """Why a server does not let a site join."""

    MALFORMED = "malformed"
    VERSION = "version"
    UNKNOWN = "unknown"
    """The server has given no such token."""
    USED = "used"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"
    NAME_TAKEN = "name_taken"
    KEY_TAKEN = "key_taken"
    """The signing key is another site's, or was revoked."""
    WRONG_NAME = "wrong_name"
    """The request is for another name than the invitation."""


class VersionError(RemoteError):
    """A site speaks another version of these messages."""


def join_statement(token: bytes, request: bytes) -> bytes:
    """What a site's signing key signs to join: that it, the key in the request (DER) and the token belong together."""
    return b"wardround join 1\0" + token_hash(token) + hashlib.sha256(request).digest()


def renewal_statement(request: bytes) -> bytes:
    """What a site's signing key signs to renew: whoever has only the connection's key cannot prolong it."""
    return b"wardround renewal 1\0" + hashlib.sha256(request).digest()


def leave_statement(server: bytes, name: SiteId, time: datetime) -> bytes:
    """What a site's signing key signs to leave the federation of the server with this public signing key, at `time`."""
    pieces = hashlib.sha256(server).digest() + hashlib.sha256(name.encode()).digest()
    return b"wardround leave 1\0" + pieces + _time_text(time).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRequest:
    """`request` is a `tls_identity.CertificateRequest`, DER; `proof` the signing key's over `join_statement`."""

    token: bytes = field(repr=False)
    request: bytes
    signing_public: bytes
    proof: bytes
    software: str = ""

    def encode(self) -> dict[str, Any]:
        return {
            "version": _VERSION,
            "token": _text(self.token),
            "csr": _text(self.request),
            "signing_public": _text(self.signing_public),
            "proof": _text(self.proof),
            "software": self.software,
        }

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """VersionError for another version, RemoteError for anything else; the text of a token is in neither."""
        version = body.get("version") if isinstance(body, Mapping) else None
        if type(version) is not int:
            raise RemoteError("join: expected an object with a version")
        if version != _VERSION:
            raise VersionError(f"join: expected version {_VERSION}; install a wardround that fits the server's")
        _check_keys("join", body, {"version", "token", "csr", "signing_public", "proof", "software"})
        return cls(
            token=_bytes("join: token", body["token"], least=TOKEN_BYTES, most=TOKEN_BYTES),
            request=_bytes("join: csr", body["csr"], most=_MOST_DER),
            signing_public=_bytes("join: signing_public", body["signing_public"], least=_KEY_BYTES, most=_KEY_BYTES),
            proof=_bytes("join: proof", body["proof"], least=_SIGNATURE_BYTES, most=_SIGNATURE_BYTES),
            software=_words("join: software", body["software"], least=0),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityAnswer:
    """The certificate (DER) of a server's TLS authority, and its clock."""

    authority: bytes
    time: datetime

    def encode(self) -> dict[str, Any]:
        return {"authority": _text(self.authority), "time": _time_text(self.time)}

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """RemoteError for anything else."""
        _check_keys("authority", body, {"authority", "time"})
        return cls(
            authority=_bytes("authority: authority", body["authority"], most=_MOST_DER),
            time=_time("authority: time", body["time"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinAnswer:
    """What a site needs. Certificates and the revocation list are DER; `server` is the server's public signing key,
    `target` (HOST:PORT) where agents attach, `time` the server's clock."""

    name: SiteId
    certificate: bytes
    identity: bytes
    identity_authority: bytes
    revocations: bytes
    server: bytes
    target: str
    time: datetime

    def encode(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "certificate": _text(self.certificate),
            "identity": _text(self.identity),
            "identity_authority": _text(self.identity_authority),
            "revocations": _text(self.revocations),
            "server": _text(self.server),
            "target": self.target,
            "time": _time_text(self.time),
        }

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """RemoteError for anything else."""
        certificates = ("certificate", "identity", "identity_authority")
        _check_keys("answer", body, {"name", *certificates, "revocations", "server", "target", "time"})
        try:
            name = site_name(_words("answer: name", body["name"]))
        except ValueError as error:
            raise RemoteError(f"answer: {error}") from None
        return cls(
            name=name,
            certificate=_bytes("answer: certificate", body["certificate"], most=_MOST_DER),
            identity=_bytes("answer: identity", body["identity"], most=_MOST_DER),
            identity_authority=_bytes("answer: identity_authority", body["identity_authority"], most=_MOST_DER),
            revocations=_bytes("answer: revocations", body["revocations"], most=_MOST_LIST),
            server=_bytes("answer: server", body["server"], least=_KEY_BYTES, most=_KEY_BYTES),
            target=_words("answer: target", body["target"]),
            time=_time("answer: time", body["time"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalRequest:
    """The body of a `renew` notice; `proof` is the signing key's over `renewal_statement`."""

    request: bytes
    proof: bytes

    def encode(self) -> dict[str, Any]:
        return {"csr": _text(self.request), "proof": _text(self.proof)}

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """RemoteError for anything else."""
        _check_keys("renew", body, {"csr", "proof"})
        return cls(
            request=_bytes("renew: csr", body["csr"], most=_MOST_DER),
            proof=_bytes("renew: proof", body["proof"], least=_SIGNATURE_BYTES, most=_SIGNATURE_BYTES),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RenewalAnswer:
    """The body of a `certificate` notice: a site's new certificates, DER."""

    certificate: bytes
    identity: bytes

    def encode(self) -> dict[str, Any]:
        return {"certificate": _text(self.certificate), "identity": _text(self.identity)}

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """RemoteError for anything else."""
        _check_keys("certificate", body, {"certificate", "identity"})
        return cls(
            certificate=_bytes("certificate: certificate", body["certificate"], most=_MOST_DER),
            identity=_bytes("certificate: identity", body["identity"], most=_MOST_DER),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveRequest:
    """A site that leaves, and its clock, in whole seconds; `proof` is its signing key's over `leave_statement`."""

    name: SiteId
    time: datetime
    proof: bytes

    def encode(self) -> dict[str, Any]:
        return {
            "version": _VERSION,
            "name": self.name,
            "time": _time_text(self.time),
            "proof": _text(self.proof),
        }

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """RemoteError for anything else."""
        _check_keys("leave", body, {"version", "name", "time", "proof"})
        if type(body["version"]) is not int or body["version"] != _VERSION:
            raise RemoteError(f"leave: expected version {_VERSION}; install a wardround that fits the server's")
        try:
            name = site_name(_words("leave: name", body["name"]))
        except ValueError as error:
            raise RemoteError(f"leave: {error}") from None
        return cls(
            name=name,
            time=_time("leave: time", body["time"]),
            proof=_bytes("leave: proof", body["proof"], least=_SIGNATURE_BYTES, most=_SIGNATURE_BYTES),
        )


def _check_keys(what: str, body: object, expected: set[str]) -> None:
    if not isinstance(body, Mapping) or body.keys() != expected:
        raise RemoteError(f"{what}: expected {', '.join(sorted(expected))} and nothing else")


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(what: str, text: object, *, least: int = 1, most: int) -> bytes:
    """Bytes in base64, of one spelling."""
    if not isinstance(text, str) or len(text) > 4 * (most // 3 + 1):
        raise RemoteError(f"{what}: expected base64 of at most {most} bytes")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not least <= len(data) <= most or _text(data) != text:
        raise RemoteError(f"{what}: expected base64 of {least} to {most} bytes")
    return data


def _words(what: str, text: object, *, least: int = 1) -> str:
    if not isinstance(text, str) or not least <= len(text) <= _MOST_TEXT or plain_text(text, _MOST_TEXT) != text:
        raise RemoteError(f"{what}: expected {least} to {_MOST_TEXT} printable letters")
    return text


def _time_text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds")


def _time(what: str, text: object) -> datetime:
    try:
        found = datetime.fromisoformat(_words(what, text))
        if found.tzinfo is None:
            raise ValueError("no zone")
        return found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise RemoteError(f"{what}: expected a time with its zone") from None
