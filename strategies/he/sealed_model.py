"""A released model at rest: a file that only those open who had the key of the epoch in which the run ended.

From an epoch's tag key every member derives the same X25519 key pair; the dealer signs the public one into the key's
header, and members accept no other. The server seals the model's file to it when the run has ended, and keeps nothing
else of the model. It had the model in its memory until then: what this protects is the disk, its copies and its
backups.

A file is `WRSM1`, four bytes for the length of a header (JSON: run, epoch, fingerprint of the epoch's key), the header,
and the model's file in HPKE, whose info is all that comes before: X25519, HKDF-SHA-256, AES-256-GCM.

Source: RFC 9180, sections 4.1, 5.1.1 and 9.1 (base mode: the recipient alone is authenticated).
"""

import json
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from wardround.errors import RemoteError
from wardround.plain_text import plain_text
from wardround.released_model import SEALED_MAGIC as MAGIC

__all__ = ["MAGIC", "ArchiveKey", "SealedModel", "read_sealed", "seal_model"]

_MAX_HEADER = 1 << 12


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveKey:
    """What a member opens sealed models of an epoch with. `fingerprint` is that of the epoch's key."""

    run: str
    epoch: int
    fingerprint: bytes
    private: bytes = field(repr=False)

    @staticmethod
    def derive(tag_key: bytes) -> bytes:
        """The private key that follows from an epoch's tag key, 32 bytes."""
        return HKDFExpand(SHA256(), 32, b"wardround he archive 1").derive(tag_key)

    @property
    def public(self) -> bytes:
        return X25519PrivateKey.from_private_bytes(self.private).public_key().public_bytes_raw()

    def open(self, sealed: "SealedModel") -> bytes:
        """The model's file. Raises RemoteError for one that was sealed under another key, or was changed."""
        if (sealed.run, sealed.epoch, sealed.fingerprint) != (self.run, self.epoch, self.fingerprint):
            raise RemoteError(
                f"sealed model: expected one of run {self.run} under the key {self.fingerprint.hex()[:16]}, got one of "
                f"run {plain_text(sealed.run)} under {sealed.fingerprint.hex()[:16]}"
            )
        try:
            key = X25519PrivateKey.from_private_bytes(self.private)
            return _suite().decrypt(sealed.ciphertext, key, info=sealed.info)
        except (InvalidTag, ValueError):
            raise RemoteError(
                "sealed model: expected the bytes that were sealed to this key, got others; fetch the file again"
            ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedModel:
    """A sealed file, read: whose it is, `info` as it was bound, and what is encrypted."""

    run: str
    epoch: int
    fingerprint: bytes
    info: bytes = field(repr=False)
    ciphertext: bytes = field(repr=False)


def seal_model(data: bytes, public: bytes, *, run: str, epoch: int, fingerprint: bytes) -> bytes:
    """The sealed file of the model's file `data`, for the owner of the X25519 key `public`."""
    header = json.dumps({"run": run, "epoch": epoch, "key": fingerprint.hex()}, sort_keys=True).encode()
    info = MAGIC + len(header).to_bytes(4, "big") + header
    return info + bytes(_suite().encrypt(data, X25519PublicKey.from_public_bytes(public), info=info))


def read_sealed(data: bytes) -> SealedModel:
    """Raises RemoteError for what is no sealed model."""
    length = int.from_bytes(data[5:9], "big")
    if data[:5] != MAGIC or not 0 < length <= _MAX_HEADER or len(data) < 9 + length:
        raise RemoteError("sealed model: expected a file that a wardround server sealed")
    try:
        header = json.loads(data[9 : 9 + length])
        run, epoch, key = header["run"], header["epoch"], bytes.fromhex(header["key"])
        if type(run) is not str or type(epoch) is not int or len(key) != 32:
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RemoteError("sealed model: expected a header with run, epoch and key") from None
    at = 9 + length
    return SealedModel(run=run, epoch=epoch, fingerprint=key, info=data[:at], ciphertext=data[at:])


def _suite() -> hpke.Suite:
    return hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
