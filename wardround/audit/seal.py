"""The records of a log about itself: which log it is, who signs it, and the seals, which are signed heads."""

from hashlib import sha256

from wardround.audit.head import LOG_BYTES, Head, sign_head
from wardround.audit.record import BEGUN, SEALED, SIGNER, Entry, Record
from wardround.identity import site_name
from wardround.signing_key import SigningKey

__all__ = ["SEAL_EVERY", "begun", "read_begun", "read_seal", "read_signer", "seal", "signer_entry"]

SEAL_EVERY = 1000
"""No more records than these follow each other without a seal."""
_FORMAT = 1


def begun(log: bytes, name: str) -> Entry:
    """The first record: of the log with this id, whose owner is `name`."""
    return Entry(kind=BEGUN, subject=name, detail={"format": _FORMAT, "log": log.hex(), "name": name})


def read_begun(record: Record) -> tuple[bytes, str]:
    """The log's id and its owner. ValueError for any other record."""
    detail = record.detail
    if record.kind != BEGUN or detail.keys() != {"format", "log", "name"}:
        raise ValueError(f"expected {BEGUN} as the first record")
    if detail["format"] != _FORMAT:
        raise ValueError(f"expected a log of format {_FORMAT}; a newer wardround has written it")
    log, name = _unhex(detail["log"], LOG_BYTES), detail["name"]
    if not isinstance(name, str):
        raise ValueError("expected the name of the log's owner")
    return log, site_name(name)


def signer_entry(certificate: bytes, name: str) -> Entry:
    """From here on `name` signs with the key of this certificate (DER)."""
    return Entry(kind=SIGNER, subject=name, detail={"certificate": certificate.hex()})


def read_signer(record: Record) -> bytes:
    """The certificate, DER. ValueError for any other record."""
    found = record.detail.get("certificate")
    if record.kind != SIGNER or len(record.detail) != 1 or not isinstance(found, str):
        raise ValueError(f"expected a certificate in {SIGNER}")
    return bytes.fromhex(found)


def seal(key: SigningKey, certificate: bytes, log: bytes, seq: int, chain_hash: bytes, time: str) -> tuple[Entry, Head]:
    """The record that follows `seq` others and signs them, and the head that it says."""
    head = sign_head(key, log, seq, chain_hash, time)
    detail = {
        "log": log.hex(),
        "hash": chain_hash.hex(),
        "signer": sha256(certificate).hexdigest(),
        "signature": head.signature.hex(),
    }
    return Entry(kind=SEALED, detail=detail), head


def read_seal(record: Record) -> tuple[Head, bytes]:
    """The head that a seal says, and the SHA-256 of the certificate of its signer. ValueError for any other record."""
    detail = record.detail
    if record.kind != SEALED or detail.keys() != {"log", "hash", "signer", "signature"}:
        raise ValueError("expected a seal")
    head = Head(
        log=_unhex(detail["log"], LOG_BYTES),
        seq=record.seq - 1,
        hash=_unhex(detail["hash"], 32),
        time=record.time,
        signature=_unhex(detail["signature"], 64),
    )
    return head, _unhex(detail["signer"], 32)


def _unhex(value: object, size: int) -> bytes:
    if not isinstance(value, str) or len(value) != 2 * size:
        raise ValueError(f"expected {size} bytes as hexadecimal digits")
    return bytes.fromhex(value)
