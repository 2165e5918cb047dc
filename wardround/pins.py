"""Pins: the signing keys that a site accepts, by its administrator's word or by a list whose digest is in the plan.

The authority belongs to the coordinator, and a lying one could invent members until a victim is alone among puppets, or
issue a name anew. So a key counts only where the site's own administrator has accepted it. Another key of the same name
comes by a statement that the old one signs, or, where that is lost, by the administrator again.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from wardround.errors import LocalError, RemoteError
from wardround.identity import site_name
from wardround.plain_text import plain_text
from wardround.signing_key import SigningKey, check_signature, fingerprint_of
from wardround.site_id import SiteId
from wardround.state_store import StateStore

__all__ = ["AcceptedKeys", "ApprovedKeys", "PinChange", "Pins", "rotation_statement"]

_KEY_BYTES = 32
_MAX_NAME_BYTES = 255


class AcceptedKeys(Protocol):
    """The signing keys that a site accepts, whatever a certificate says."""

    def check(self, name: str, public: bytes) -> None:
        """Raises unless `public` is the accepted key of `name`."""
        ...


class ApprovedKeys:
    """Name to fingerprint for a federation too large for pins; its digest is in the plan that a site approves.

    The digest is SHA-256 of `wardround approved keys 1`, a zero byte, and for every name in ascending order of its
    UTF-8 two bytes for its length, the name, and the 32 bytes of the fingerprint.
    """

    __slots__ = ("_fingerprints", "digest")

    def __init__(self, fingerprints: Mapping[str, str]) -> None:
        digest = hashlib.sha256(b"wardround approved keys 1\0")
        for name in sorted(fingerprints):
            text = site_name(name).encode()
            digest.update(len(text).to_bytes(2, "little") + text + _checked(fingerprints[name]))
        if len(set(fingerprints.values())) != len(fingerprints):
            raise ValueError("expected every key under one name")
        self._fingerprints = dict(fingerprints)
        self.digest = digest.digest()

    def check(self, name: str, public: bytes) -> None:
        """Raises RemoteError unless `public` is the approved key of `name`."""
        expected, got = self._fingerprints.get(name), fingerprint_of(public)
        if expected != got:
            raise RemoteError(
                f"{plain_text(name)}: expected {expected or 'no such member'} by the plan's list of keys, got {got}; "
                "ask the coordinator for a plan with another list, and have it approved"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PinChange:
    """A line of the log: a pin that was accepted, rotated or removed. `old` and `new` are fingerprints."""

    time: str
    change: str
    name: str
    old: str | None = None
    new: str | None = None
    by: str = ""


_PINS = "identity/pins"


class Pins:
    """The keys that a site's administrator has accepted, and the log of how they came to be; durable in `store`.

    A pin and its line in the log are stored at once. One object and one thread at a time.
    """

    __slots__ = ("_store",)

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._read()

    def check(self, name: str, public: bytes) -> None:
        """Raises RemoteError unless `public` is the pinned key of `name`."""
        pins, _ = self._read()
        expected, got = pins.get(name), fingerprint_of(public)
        if expected is None:
            raise RemoteError(
                f"{plain_text(name)}: expected a member whose key is pinned here, got one with key {got}; compare this "
                "fingerprint with the one that the site itself names, by telephone, then accept it"
            )
        if expected != got:
            raise RemoteError(
                f"{plain_text(name)}: expected the pinned key {expected}, got {got}; take it for an attack until the "
                "site itself confirms a new key: by a rotation statement, or else to the administrator"
            )

    def accept(self, name: str, fingerprint: str, *, by: str, now: datetime, instead_of: str | None = None) -> None:
        """Pin what the administrator `by` has compared; the same again changes nothing.

        Where `name` has another pin (its key was lost), `instead_of` must be that one. Raises LocalError for a
        key of another name, and for one that this name has had before, since what made it change may still hold.
        """
        pins, log = self._read()
        _checked(fingerprint)
        old = pins.get(site_name(name))
        if old == fingerprint:
            return
        if old != instead_of:
            raise LocalError(
                f"{name}: expected to replace {old or 'no pin'}, got {instead_of or 'none'} as what is replaced; look "
                "at the pin first"
            )
        self._write(name, fingerprint, "accepted", by, now, pins, log)

    def remove(self, name: str, *, by: str, now: datetime) -> None:
        """Take a pin away: rosters with this member are refused from now on."""
        pins, log = self._read()
        if name not in pins:
            raise LocalError(f"{plain_text(name)}: expected a pinned name")
        self._write(name, None, "removed", by, now, pins, log)

    def rotate(self, statement: bytes, *, now: datetime) -> None:
        """Move a pin by a `rotation_statement`. Raises RemoteError unless the pinned key has signed it."""
        name, old, new = _read_rotation(statement)
        pins, log = self._read()
        if pins.get(name) != fingerprint_of(old):
            raise RemoteError(
                f"{name}: expected a rotation of the pinned key {pins.get(name) or '(none)'}, got one of "
                f"{fingerprint_of(old)}; the administrator must accept the new key"
            )
        try:
            self._write(name, fingerprint_of(new), "rotated", "its old key", now, pins, log)
        except LocalError as error:
            raise RemoteError(str(error)) from None

    def pinned(self) -> dict[str, str]:
        """Name to fingerprint."""
        return self._read()[0]

    def log(self) -> tuple[PinChange, ...]:
        """Every change, in order."""
        return tuple(self._read()[1])

    def _write(
        self,
        name: str,
        new: str | None,
        change: str,
        by: str,
        now: datetime,
        pins: dict[str, str],
        log: list[PinChange],
    ) -> None:
        if now.tzinfo is None:
            raise ValueError("expected a time with its zone, got one without")
        if not by or plain_text(by) != by:
            raise LocalError(f"expected who changes the pin, in 1 to 200 printable letters, got {plain_text(by)!r}")
        old = pins.pop(name, None)
        if new is not None:
            if taken := [other for other, key in pins.items() if key == new]:
                raise LocalError(f"{name}: expected a key of its own, got the pinned key of {taken[0]}")
            # else a statement could be played again once the pin is back at the key that signed it
            if any(one.name == name and new in (one.old, one.new) for one in log):
                raise LocalError(f"{name}: expected a key that is new, got {new}, which it has had; make another key")
            pins[name] = new
        time = now.astimezone(UTC).isoformat(timespec="seconds")
        log.append(PinChange(time=time, change=change, name=name, old=old, new=new, by=by))
        lines = [[one.time, one.change, one.name, one.old, one.new, one.by] for one in log]
        self._store.put(_PINS, json.dumps({"v": 1, "pins": pins, "log": lines}, sort_keys=True).encode())

    def _read(self) -> tuple[dict[str, str], list[PinChange]]:
        data = self._store.get(_PINS)
        if data is None:
            return {}, []
        try:
            table = json.loads(data)
            if table["v"] != 1:
                raise ValueError(f"version {table['v']}")
            log = [
                PinChange(time=time, change=change, name=name, old=old, new=new, by=by)
                for time, change, name, old, new, by in table["log"]
            ]
            return {str(site_name(name)): _checked(key).hex() for name, key in table["pins"].items()}, log
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LocalError(f"pins: expected version 1 of the stored pins ({error}); restore them") from None


def _checked(fingerprint: str) -> bytes:
    """The bytes of a fingerprint, which has one spelling."""
    try:
        data = bytes.fromhex(fingerprint)
    except ValueError:
        data = b""
    if len(data) != _KEY_BYTES or data.hex() != fingerprint:
        raise ValueError(f"expected a fingerprint of 64 hexadecimal digits, got {plain_text(fingerprint, 80)!r}")
    return data


_ROTATION = b"WRR1"
_SIGNATURE_BYTES = 64


def rotation_statement(name: str, old: SigningKey, new: SigningKey) -> bytes:
    """Words of `name` that it signs with `new` from now on, under both keys.

    `WRR1`, two bytes for the length of the name, the name, the old and the new public key, then the signatures by the
    old and by the new key of `wardround key rotation 1`, a zero byte and all that comes before them. The new key signs
    too, so that nobody can claim a key of others.
    """
    text = site_name(name).encode()
    body = _ROTATION + len(text).to_bytes(2, "little") + text + old.public + new.public
    return body + old.sign(_rotation_input(body)) + new.sign(_rotation_input(body))


def _rotation_input(body: bytes) -> bytes:
    return b"wardround key rotation 1\0" + body


def _read_rotation(data: bytes) -> tuple[SiteId, bytes, bytes]:
    """Name, old and new public key. Raises RemoteError for a statement that is malformed or not signed by both."""
    length = int.from_bytes(data[4:6], "little")
    at = 6 + length
    end = at + 2 * _KEY_BYTES
    if data[:4] != _ROTATION or length > _MAX_NAME_BYTES or len(data) != end + 2 * _SIGNATURE_BYTES:
        raise RemoteError("rotation: expected a rotation statement")
    try:
        name = site_name(data[6:at].decode())
    except ValueError as error:
        raise RemoteError(f"rotation: {error}") from None
    old, new = data[at : at + _KEY_BYTES], data[at + _KEY_BYTES : end]
    signed = _rotation_input(data[:end])
    check_signature(old, data[end : end + _SIGNATURE_BYTES], signed, f"{name}, old key")
    check_signature(new, data[end + _SIGNATURE_BYTES :], signed, f"{name}, new key")
    return name, old, new
