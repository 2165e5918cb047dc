"""The file of a released model, `.wardmodel`: a model with its plan and its manifest, signed by the server.

    offset  size  field
         0    27  magic, `wardround released model 1\\n`
        27     8  when it was signed, seconds since 1970, UTC
        35     4  length of the certificate of the server's signing key
        39     4  length of the manifest
        43     4  length of the plan
        47     8  length of the model
        55    64  Ed25519 signature over `release_bytes`: of the manifest, the certificate and the time
       119        certificate (DER), manifest (`release_manifest`), plan, model.safetensors; then the end

The plan is in its canonical form, JSON, whose SHA-256 is the digest that the sites have approved: it has the digests of
all code files, and can be checked by any version. Numbers are unsigned, little-endian. The manifest has the SHA-256 of
plan and model, so every byte is either a length that has to fit, or signed. Nothing is compressed, nothing has a name,
and there is one way to write it.
"""

import hashlib
import json
import os
import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wardround.errors import LocalError, RemoteError
from wardround.evidence_identity import RESERVED_SERVER_NAME, signer
from wardround.identity import Authority
from wardround.link.signing_inputs import release_bytes
from wardround.plain_text import plain_text
from wardround.release_manifest import MAX_MANIFEST_BYTES, Manifest, time_text
from wardround.signing_key import check_signature

__all__ = ["MAX_PLAN_BYTES", "SEALED_MAGIC", "ReleaseHead", "ReleasedModel", "is_sealed_model", "model_facts"]

MAX_PLAN_BYTES = 1 << 21
SEALED_MAGIC = b"WRSM1"
"""How the file of a model begins that a server has sealed to members (`strategies/he/sealed_model`)."""
_MAGIC = b"wardround released model 1\n"
_FIELDS = struct.Struct("<QIIIQ64s")
_MAX_CERTIFICATE_BYTES = 4096
_HEAD_BYTES = len(_MAGIC) + _FIELDS.size
_MAX_FACTS_BYTES = 1 << 26
_MOST_SECONDS = 253_402_300_799  # the end of the year 9999
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseHead:
    """All of a released model before its model: what is signed, and the signature. `at` is to the second."""

    at: datetime
    certificate: bytes
    manifest: bytes
    plan: bytes
    model_bytes: int
    signature: bytes

    def signed(self) -> bytes:
        """What `signature` is over."""
        manifest, certificate = (hashlib.sha256(part).digest() for part in (self.manifest, self.certificate))
        return release_bytes(manifest, certificate, time_text(self.at))

    def encode(self) -> bytes:
        """The file up to the model, which follows."""
        lengths = (len(self.certificate), len(self.manifest), len(self.plan), self.model_bytes)
        fields = _FIELDS.pack(int(self.at.timestamp()), *lengths, self.signature)
        return b"".join((_MAGIC, fields, self.certificate, self.manifest, self.plan))


class ReleasedModel:
    """An open `.wardmodel`, for `with`. Only the form is checked here: of what it says nothing is believed yet.

    Raises LocalError for a file that cannot be read, and RemoteError for one that has not the form. What is read is
    bounded by limits of ours, and, for the model, by the size of the file.
    """

    __slots__ = ("_descriptor", "_offset", "head", "path")

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise LocalError(f"{self.path}: cannot be read ({error.strerror})") from None
        try:
            self.head = self._read_head()
        except RemoteError as error:
            os.close(self._descriptor)
            raise RemoteError(f"{self.path}: {error}") from None
        except BaseException:
            os.close(self._descriptor)
            raise
        self._offset = len(self.head.encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def check_server(self, authority: Authority) -> bytes:
        """The server's public key, by which the manifest is signed. RemoteError where it is not.

        Nothing of the manifest is looked into before.
        """
        head = self.head
        public = signer(authority, head.certificate, RESERVED_SERVER_NAME, head.at)
        check_signature(public, head.signature, head.signed(), "the server, release")
        return public

    def manifest(self) -> Manifest:
        """What the manifest says."""
        return Manifest.from_bytes(self.head.manifest)

    def check_contents(self, manifest: Manifest) -> None:
        """RemoteError unless plan and model are those of the manifest. Reads the model once, piece by piece."""
        if hashlib.sha256(self.head.plan).hexdigest() != manifest.plan_digest:
            raise RemoteError("plan: expected the plan of the manifest's digest, got another; it was changed")
        digest = hashlib.sha256()
        for piece in self.model_parts():
            digest.update(piece)
        _check_model(digest.hexdigest(), manifest)

    def model_parts(self) -> Iterator[bytes]:
        """The model, piece by piece."""
        at, end = self._offset, self._offset + self.head.model_bytes
        while at < end:
            piece = self._read(at, min(_PIECE, end - at))
            yield piece
            at += len(piece)

    def model(self, manifest: Manifest | None) -> bytes:
        """The model, as a safetensors file has it; with a `manifest`, the very bytes that it names."""
        data = self._read(self._offset, self.head.model_bytes)
        if manifest is not None:
            _check_model(hashlib.sha256(data).hexdigest(), manifest)
        return data

    def facts(self) -> dict[str, Any]:
        """`model_facts` of the model."""
        return model_facts(lambda at, size: self._read(self._offset + at, size), self.head.model_bytes)

    def _read_head(self) -> ReleaseHead:
        found = os.fstat(self._descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise LocalError(f"{self.path}: expected a file")
        start = self._read(0, min(found.st_size, _HEAD_BYTES))
        if is_sealed_model(start):
            raise RemoteError(
                "expected a released model, got one that is sealed to the members of its run; one of them opens it: "
                "wardround client model open FILE --out model.safetensors"
            )
        if not start.startswith(_MAGIC):
            raise RemoteError("expected a model released by wardround, got something else")
        if len(start) < _HEAD_BYTES:
            raise RemoteError(f"expected a head of {_HEAD_BYTES} bytes, got {len(start)}; the file was cut")
        seconds, certificate, manifest, plan, model, signature = _FIELDS.unpack(start[len(_MAGIC) :])
        parts = (
            ("certificate", certificate, _MAX_CERTIFICATE_BYTES),
            ("manifest", manifest, MAX_MANIFEST_BYTES),
            ("plan", plan, MAX_PLAN_BYTES),
        )
        for what, length, most in parts:
            if length > most:
                raise RemoteError(f"head: expected a {what} of at most {most} bytes, got {length}")
        size = _HEAD_BYTES + certificate + manifest + plan + model
        if size != found.st_size:
            raise RemoteError(f"head: expected a file of {size} bytes, got {found.st_size}; it was cut or added to")
        if seconds > _MOST_SECONDS:
            raise RemoteError("head: expected a time before the year 10000")
        at = _HEAD_BYTES
        read = []
        for _, length, _ in parts:
            read.append(self._read(at, length))
            at += length
        return ReleaseHead(
            at=datetime.fromtimestamp(seconds, UTC),
            certificate=read[0],
            manifest=read[1],
            plan=read[2],
            model_bytes=model,
            signature=signature,
        )

    def _read(self, at: int, size: int) -> bytes:
        try:
            data = os.pread(self._descriptor, size, at)
            while data and len(data) < size:  # a call reads 2 GiB at most
                more = os.pread(self._descriptor, size - len(data), at + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise LocalError(f"{self.path}: cannot be read ({error.strerror})") from None
        if len(data) != size:
            raise LocalError(f"{self.path}: became shorter while it was read")
        return data


def model_facts(read: Callable[[int, int], bytes], size: int) -> dict[str, Any]:
    """What a safetensors file made by wardround says of itself: run_id, plan_digest, round, layout.

    `read(offset, length)` gives bytes of it. Raises RemoteError for any other file, with no tensor looked at.
    """
    try:
        length = int.from_bytes(read(0, 8), "little") if size >= 8 else size
        if not 0 < length <= min(size - 8, _MAX_FACTS_BYTES):
            raise ValueError("its header does not fit")
        facts = json.loads(json.loads(read(8, length))["__metadata__"]["wardround"])
        if not isinstance(facts, dict):
            raise TypeError("no table")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RemoteError(
            f"model.safetensors: expected a model made by wardround ({plain_text(str(error), 60)})"
        ) from None
    return facts


def is_sealed_model(start: bytes) -> bool:
    """Whether a file that begins with `start` is a model sealed to members."""
    return start.startswith(SEALED_MAGIC)


def _check_model(found: str, manifest: Manifest) -> None:
    if found != manifest.model_sha256:
        raise RemoteError("model.safetensors: expected the model of the manifest's digest, got another; it was changed")
