"""Is everything there that a server needs to go on from an unpacked backup, and does it open?"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key
from cryptography.x509 import load_der_x509_certificate

from wardround.audit.log import LOG_FILE
from wardround.audit.verify import verify_log
from wardround.errors import LocalError, RemoteError
from wardround.identity import Authority
from wardround.server.runs.checkpoint import decode_checkpoint
from wardround.server.runs.sealed_release import SealedRelease
from wardround.server.state.blob_store import BlobStore
from wardround.server.state.database import Database
from wardround.server.state.first_models import FirstModels
from wardround.server.state.folder import StateFolder
from wardround.server.state.keyring import Keyring
from wardround.server.state.models import Models
from wardround.server.state.plans import Plans
from wardround.server.state.runs import Runs
from wardround.server.state.vault import Vault, is_sealed

__all__ = ["check_contents"]

_CHECKPOINTS = "checkpoints"


def check_contents(folder: StateFolder, keyring: Keyring, database: Database) -> None:
    """LocalError where an authority is not the keyring's, a file that a row names is missing, or one does not open."""
    vault = Vault(keyring.data_key)
    _check_authorities(folder, keyring)
    _check_audit_log(folder)
    blobs = BlobStore(folder.models, vault)
    for name in sorted(blobs.names()):
        _digest(blobs.parts(name))
    for model in Models(database).list():
        if _digest(blobs.parts(model.blob)) != model.sha256:
            raise LocalError(f"{model.name}@{model.version}: expected the model of its digest, got another")
    plans, first_models = Plans(database, vault), FirstModels(database)
    for plan in plans.list():
        plans.files(plan.digest)
        if (first := first_models.get(plan.digest)) is not None:
            blobs.size(first.blob)
    for path in sorted(folder.runs.rglob("*")):
        if path.is_file():
            _check_run_file(path, path.relative_to(folder.path).as_posix(), vault)
    for run in Runs(database).list():
        sealed = SealedRelease.read(folder.runs / run.id)  # then its checkpoints are deleted
        newest = max(_rounds(folder.runs / run.id), default=0) if sealed is None else sealed.rounds
        if newest < run.round:
            raise LocalError(
                f"run {run.number}: expected the checkpoint of round {run.round}, got {newest} as the last"
            )


def _check_audit_log(folder: StateFolder) -> None:
    path = folder.audit / LOG_FILE
    if path.exists():  # a server that was made before there were any has none
        try:
            with path.open("rb") as file:
                verify_log(file, Authority(folder.identity_authority()))
        except RemoteError as error:
            raise LocalError(f"audit log, {error}") from None


def _check_authorities(folder: StateFolder, keyring: Keyring) -> None:
    tls = load_der_private_key(keyring.tls_authority, None).public_key()
    expected = {
        "TLS authority": (folder.tls_authority(), tls.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)),
        "identity authority": (folder.identity_authority(), _ED25519_HEAD + keyring.identity_authority.public),
    }
    for what, (certificate, public) in expected.items():
        try:
            found = load_der_x509_certificate(certificate).public_key()
            same = found.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == public
        except ValueError:
            same = False
        if not same:
            raise LocalError(f"{what}: expected a certificate of the key in the keyring, got something else")


_ED25519_HEAD = bytes.fromhex("302a300506032b6570032100")  # SubjectPublicKeyInfo of Ed25519 up to the key (RFC 8410)


def _check_run_file(path: Path, label: str, vault: Vault) -> None:
    with path.open("rb") as file:
        sealed = is_sealed(file.read(64))
    if path.parent.name != _CHECKPOINTS:
        if sealed:
            with path.open("rb") as file:
                _digest(vault.parts(label, file))
        return
    checkpoint = decode_checkpoint(vault.open_file(label, path) if sealed else path.read_bytes(), label)
    if checkpoint.run_id != path.parent.parent.name or _round_of(path) != checkpoint.state.round:
        raise LocalError(f"{label}: expected the checkpoint of this run and round, got another")


def _rounds(run: Path) -> list[int]:
    return [_round_of(path) for path in (run / _CHECKPOINTS).glob("round-*")]


def _round_of(path: Path) -> int:
    digits = path.stem.removeprefix("round-")
    return int(digits) if digits.isascii() and digits.isdigit() else -1


def _digest(parts: Iterator[bytes]) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()
