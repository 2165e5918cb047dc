"""A released model: what its check proves, and that nothing can be changed in it without being found and named."""

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.released_models import LAYOUT, MODEL, NOW, PLAN, RUN, Signers, b64, model_of, same
from wardround.errors import LocalError, RemoteError, WardroundError
from wardround.identity import issue_certificate
from wardround.link.signing_inputs import approval_bytes
from wardround.plan import parse_plan
from wardround.release_check import CheckedRelease, check_release
from wardround.release_manifest import Manifest, Parent, PrivacyClaim, SiteEvidence
from wardround.released_model import MAX_PLAN_BYTES, ReleasedModel
from wardround.server.runs.model_file import ModelFile, encode_model
from wardround.server.runs.tensor_file import decode_tensors
from wardround.signing_key import SigningKey, fingerprint_of
from wardround.verify_commands import app

SAMPLE = Path(__file__).parent.parent / "docs" / "samples" / "released-model"
SIGNERS = Signers()
A, B = SIGNERS.names
HIDDEN = (
    PLAN
    + """
[privacy]
unit = "client"
sampling = "poisson"
clip_norm = 1.0
noise_multiplier = 1.0
[cohort]
size = 1
weighting = "uniform"
"""
)
PRIVATE = PLAN + '[privacy]\nunit = "row"\nclip_norm = 1.0\npublic_sizes = true\nepsilon = 3.0\n'


def checked(path: Path, signers: Signers = SIGNERS) -> CheckedRelease:
    with ReleasedModel(path) as released:
        return check_release(released, signers.authority)


def test_a_whole_file_says_what_is_proven_and_what_is_claimed(tmp_path: Path) -> None:
    found = checked(SIGNERS.write(tmp_path / "hearts-2.wardmodel"))
    proven, claimed = "\n".join(found.proven()), "\n".join(found.claimed())
    assert found.server == fingerprint_of(SIGNERS.server.public)
    assert [(one.name, one.cosigned is not None, one.rounds) for one in found.sites] == [(A, True, 3), (B, False, None)]
    assert found.missing == (B,)
    for name, key in SIGNERS.sites.items():
        assert f"{name!r} (key {fingerprint_of(key.public)}) approved" in proven
    assert f"{A!r} has co-signed" in proven
    assert f"{B!r} has co-signed" not in proven
    assert "auc 0.9123" in claimed
    assert "auc" not in proven
    assert "no differential privacy" in proven
    assert "red-team" in claimed
    assert "signed on 2026-11-30 14:00" in claimed and "14:00" not in proven
    assert found.authority in claimed  # whose word on keys it rests on
    assert json.loads(json.dumps(found.to_json()))["ok"] is True


def test_the_model_in_it_is_the_one_that_was_put_in(tmp_path: Path) -> None:
    path = SIGNERS.write(tmp_path / "m.wardmodel")
    with ReleasedModel(path) as released:
        manifest = released.manifest()
        data = released.model(manifest)
        assert b"".join(released.model_parts()) == data == model_of(parse_plan(PLAN))
    tensors, _ = decode_tensors(data, "model")
    assert tensors["output.bias"].tolist() == MODEL[6:].tolist()


def test_the_same_content_is_the_same_file(tmp_path: Path) -> None:
    one, two = (SIGNERS.write(tmp_path / name).read_bytes() for name in ("one", "two"))
    assert one == two


def test_a_code_bundle_is_in_the_digest_but_not_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "net.py").write_text("SECRET = 1\n")
    toml = PLAN.replace('name = "tabular-classifier"\nmodel = "logistic"', 'entry = "net:make"\ncode = "code"')
    path = SIGNERS.write(tmp_path / "m", toml=toml, folder=tmp_path)
    found = checked(path)
    assert found.plan.code_files == parse_plan(toml, folder=tmp_path).code_files
    assert "1 code file" in "\n".join(found.proven())
    assert b"SECRET" not in path.read_bytes()


def test_a_plan_of_an_older_version_keeps_its_digest(tmp_path: Path) -> None:
    """A key that did not exist then: the digest is of what the sites approved, not of what this version adds to it."""
    table = json.loads(parse_plan(PLAN).canonical())
    del table["training"]["momentum"]
    old = json.dumps(table, sort_keys=True, separators=(",", ":")).encode()
    digest = hashlib.sha256(old).hexdigest()
    assert digest != parse_plan(PLAN).digest
    model = encode_model(ModelFile(layout=LAYOUT, model=MODEL, round=3, run_id=RUN, plan_digest=digest))

    def change(manifest: Manifest) -> Manifest:
        sha256 = hashlib.sha256(model).digest()
        sites = tuple(
            SiteEvidence(
                name=one.name,
                approval=SIGNERS.approval(one.name, digest),
                cosignature=SIGNERS.cosignature(one.name, digest, sha256),
            )
            for one in manifest.sites
        )
        return replace(manifest, plan_digest=digest, sites=sites)

    assert checked(SIGNERS.write(tmp_path / "m", change=change, plan=old, model=model)).missing == ()


@pytest.mark.parametrize(
    "plan", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"code_files":[[1]]}', b'{"code_files":[],"rounds":0}']
)
def test_what_is_no_plan_is_refused(tmp_path: Path, plan: bytes) -> None:
    digest = hashlib.sha256(plan).hexdigest()
    path = SIGNERS.write(tmp_path / "m", change=lambda one: replace(one, plan_digest=digest), plan=plan)
    with pytest.raises(RemoteError, match="m: plan: expected one that this version"):
        checked(path)


# -- signed, and wrong all the same ---------------------------------------------------------------


def of_site(change: Callable[[Manifest], dict[str, object]], index: int = 0) -> Callable[[Manifest], Manifest]:
    """Changes of one site's evidence."""

    def changed(manifest: Manifest) -> Manifest:
        sites = list(manifest.sites)
        sites[index] = replace(sites[index], **change(manifest))  # type: ignore[arg-type]
        return replace(manifest, sites=tuple(sites))

    return changed


def other_certificate(name: str, public: bytes, **span: datetime) -> str:
    valid = {"not_before": NOW - timedelta(days=1), "not_after": NOW + timedelta(days=1)} | span
    der = issue_certificate(SIGNERS.authority_der, SIGNERS.root, name=name, public=public, random=os.urandom, **valid)
    return b64(der)


def model_digest(manifest: Manifest) -> bytes:
    return bytes.fromhex(manifest.model_sha256)


EXPIRED = other_certificate(A, SIGNERS.sites[A].public, not_after=NOW - timedelta(hours=1))
DENIAL = b64(SIGNERS.sites[A].sign(approval_bytes(RUN, parse_plan(PLAN).digest, "denied")))
NEW_KEY = SigningKey.make(os.urandom)
LIES: dict[str, tuple[Callable[[Manifest], Manifest], str]] = {
    "approved another run": (of_site(lambda m: {"approval": SIGNERS.approval(A, m.plan_digest, "f" * 32)}), "approval"),
    "approved another plan": (of_site(lambda m: {"approval": SIGNERS.approval(A, "f" * 64)}), "approval"),
    "has denied": (
        of_site(lambda m: {"approval": replace(m.sites[0].approval, signature=DENIAL)}),
        f"{A}, approval",
    ),
    "another site's approval": (of_site(lambda m: {"approval": m.sites[1].approval}), A),
    "an expired certificate": (
        of_site(lambda m: {"approval": replace(m.sites[0].approval, certificate=EXPIRED)}),
        "valid on 2026-11-30",
    ),
    "co-signed another model": (
        of_site(lambda m: {"cosignature": SIGNERS.cosignature(A, m.plan_digest, bytes(32))}),
        f"{A}, co-signature",
    ),
    "co-signed other rounds": (
        of_site(lambda m: {"cosignature": replace(m.sites[0].cosignature, rounds=2)}),  # type: ignore[type-var]
        f"{A}, co-signature",
    ),
    "co-signed more rounds than there are": (
        of_site(lambda m: {"cosignature": SIGNERS.cosignature(A, m.plan_digest, model_digest(m), 4)}),
        "at most 3 rounds",
    ),
    "co-signed without a number of rounds": (
        of_site(lambda m: {"cosignature": SIGNERS.cosignature(A, m.plan_digest, model_digest(m), None)}),
        "a number of rounds",
    ),
    "another site's co-signature": (
        of_site(lambda m: {"cosignature": SIGNERS.cosignature(B, m.plan_digest, model_digest(m))}),
        A,
    ),
    "co-signed with another key than approved": (
        of_site(
            lambda m: {
                "cosignature": replace(
                    m.sites[0].cosignature,  # type: ignore[type-var]
                    certificate=other_certificate(A, NEW_KEY.public),
                )
            }
        ),
        "the key that approved",
    ),
    "base64 that is none": (of_site(lambda m: {"approval": replace(m.sites[0].approval, signature="*")}), "base64"),
    "a site is left out": (lambda m: replace(m, sites=m.sites[:1]), "all 2 sites"),
    "another name": (lambda m: replace(m, name="lungs"), "manifest.name"),
    "another plan's digest": (lambda m: replace(m, plan_digest="0" * 64), "plan: expected"),
    "another model": (lambda m: replace(m, model_sha256="0" * 64), "model.safetensors"),
    "another round": (lambda m: replace(m, round=2), "round"),
    "another run": (lambda m: replace(m, run="f" * 32), "model.safetensors"),
}


@pytest.mark.parametrize(("change", "named"), LIES.values(), ids=list(LIES))
def test_what_the_server_signed_falsely_is_named(
    tmp_path: Path, change: Callable[[Manifest], Manifest], named: str
) -> None:
    with pytest.raises(RemoteError) as raised:
        checked(SIGNERS.write(tmp_path / "m", change=change))
    assert named in str(raised.value)
    assert "\n" not in str(raised.value)


def test_sites_twice_or_out_of_order_are_no_manifest() -> None:
    head, _ = SIGNERS.parts()
    found = Manifest.from_bytes(head.manifest)
    for sites in (found.sites[::-1], (found.sites[0], found.sites[0])):
        with pytest.raises(ValueError, match="each site once"):
            replace(found, sites=sites)


def test_another_federations_authority_is_no_root(tmp_path: Path) -> None:
    path = SIGNERS.write(tmp_path / "m")
    with pytest.raises(RemoteError, match="wardround server"):
        checked(path, Signers())


def test_a_site_cannot_release(tmp_path: Path) -> None:
    head, model = SIGNERS.parts()
    forged = replace(head, certificate=SIGNERS.certificates[A])
    forged = replace(forged, signature=SIGNERS.sites[A].sign(forged.signed()))
    (tmp_path / "m").write_bytes(forged.encode() + model)
    with pytest.raises(RemoteError, match="wardround server"):
        checked(tmp_path / "m")


def test_a_release_cannot_be_given_another_time(tmp_path: Path) -> None:
    head, model = SIGNERS.parts()
    (tmp_path / "m").write_bytes(replace(head, at=head.at - timedelta(days=1)).encode() + model)
    with pytest.raises(RemoteError, match="the server, release"):
        checked(tmp_path / "m")


def test_a_model_of_something_else_is_refused(tmp_path: Path) -> None:
    for model in (b"", b"12345678", b"\xff" * 64, (2).to_bytes(8, "little") + b"{}"):
        with pytest.raises(RemoteError, match=r"model\.safetensors"):
            checked(SIGNERS.write(tmp_path / "m", model=model))


@pytest.mark.parametrize("toml", [HIDDEN, PRIVATE], ids=["hides who took part", "hides rows"])
def test_claims_of_private_plans(tmp_path: Path, toml: str) -> None:
    path = SIGNERS.write(tmp_path / "m", toml=toml)
    found = checked(path)
    assert "differential privacy: epsilon 3 at delta 1e-6" in "\n".join(found.claimed())
    if toml is HIDDEN:
        assert found.sites[0].cosigned is not None
        assert found.sites[0].rounds is None
        assert b'"rounds":3' in path.read_bytes()  # of the run; of a site there is no number
        lie = of_site(lambda m: {"cosignature": SIGNERS.cosignature(A, m.plan_digest, model_digest(m), 3)})
        with pytest.raises(RemoteError, match="which the plan hides"):
            checked(SIGNERS.write(tmp_path / "n", toml=toml, change=lie))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"privacy": PrivacyClaim(headline="epsilon 0.1", epsilon=0.1, delta=1e-6)}, r"manifest\.privacy: .* no claim"),
        ({"rounds": 4}, r"manifest\.rounds: expected at most the 3 rounds of the plan"),
        ({"void": 4}, r"manifest\.rounds: .* got 3 \(4 void"),
        ({"rounds": 2}, r"manifest\.rounds: .* the model after 3\)"),
    ],
)
def test_an_account_that_the_approved_plan_cannot_have_is_refused(
    tmp_path: Path, changes: dict[str, Any], what: str
) -> None:
    path = SIGNERS.write(tmp_path / "m", change=lambda one: replace(one, **changes))
    with pytest.raises(RemoteError, match=what):
        checked(path)


def test_one_key_behind_two_names_is_refused(tmp_path: Path) -> None:
    twins = Signers()
    twins.sites[B] = twins.sites[A]
    span = {"not_before": NOW - timedelta(days=1), "not_after": NOW + timedelta(days=30)}

    def certify(name: str, key: SigningKey) -> None:
        twins.sites[name] = key
        twins.certificates[name] = issue_certificate(
            twins.authority_der, twins.root, name=name, public=key.public, **span, random=os.urandom
        )

    certify(B, twins.sites[A])
    with pytest.raises(RemoteError, match="'Hospital B': expected a key of its own, got that of 'Hospital A'"):
        checked(twins.write(tmp_path / "m"), twins)
    certify(B, twins.server)
    with pytest.raises(RemoteError, match="'Hospital B': expected a key of its own, got that of the server"):
        checked(twins.write(tmp_path / "n"), twins)


@pytest.mark.parametrize(
    ("at", "what"),
    [
        (NOW - timedelta(seconds=1), "after the model was made"),
        (NOW + timedelta(minutes=59), "after the model was made"),
        (NOW + timedelta(hours=1), ""),
    ],
)
def test_nothing_is_signed_before_it_was_made(tmp_path: Path, at: datetime, what: str) -> None:
    head, model = SIGNERS.parts()
    head = replace(head, at=at)
    (tmp_path / "m").write_bytes(replace(head, signature=SIGNERS.server.sign(head.signed())).encode() + model)
    if what:
        with pytest.raises(RemoteError, match=f"head: expected a time {what}"):
            checked(tmp_path / "m")
    else:
        checked(tmp_path / "m")


# -- the sample in the documents ------------------------------------------------------------------


def test_the_sample_says_what_the_documents_say_that_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(SAMPLE)
    said = CliRunner().invoke(app, ["verify", "model", "breast-cancer-1.wardmodel", "--root", "ca.pem"])
    assert said.exit_code == 0, said.output
    assert said.stdout == Path("verified.txt").read_text()
    assert said.stdout in (SAMPLE.parent.parent / "released-models.md").read_text()


def test_the_check_needs_nothing_but_the_base_package() -> None:
    arguments = ["verify", "model", str(SAMPLE / "breast-cancer-1.wardmodel"), "--root", str(SAMPLE / "ca.pem")]
    program = f"""
import sys
sys.argv = ["wardround", *{arguments!r}]
from wardround.cli import main
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert not loaded & {"torch", "flwr", "opacus", "safetensors", "sqlalchemy", "fastapi", "pyarrow", "argon2"}


def test_json_has_what_the_text_has(tmp_path: Path) -> None:
    path, root = SIGNERS.write(tmp_path / "m"), tmp_path / "ca.pem"
    root.write_bytes(SIGNERS.pem)
    said = CliRunner().invoke(app, ["verify", "model", str(path), "--root", str(root), "--json"])
    found = json.loads(said.stdout)
    assert found["ok"] is True
    assert [site["name"] for site in found["sites"] if site["cosigned"] is None] == [B]
    assert found["proven"] == list(checked(path).proven())
    path.write_bytes(path.read_bytes()[:-1])
    bad = CliRunner().invoke(app, ["verify", "model", str(path), "--root", str(root), "--json"])
    assert isinstance(bad.exception, RemoteError)
    assert bad.stdout == ""


# -- the form -------------------------------------------------------------------------------------


def test_lengths_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    head, model = SIGNERS.parts()
    whole = bytearray(head.encode() + model)
    at = len(b"wardround released model 1\n") + 8
    for offset, size in ((at, 4), (at + 4, 4), (at + 8, 4), (at + 12, 8)):
        changed = bytearray(whole)
        changed[offset : offset + size] = b"\xff" * size
        (tmp_path / "m").write_bytes(changed)
        with pytest.raises(RemoteError, match="head: expected a"):
            ReleasedModel(tmp_path / "m")


@pytest.mark.parametrize(
    "data", [b"", b"PK\x03\x04", b"wardround released model 1\n", b"wardround released model 1\n" + bytes(20)]
)
def test_what_is_no_released_model_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m").write_bytes(data)
    with pytest.raises(RemoteError, match="expected"):
        ReleasedModel(tmp_path / "m")


def test_no_file_no_folder_no_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "none", tmp_path, tmp_path / "pipe"):
        with pytest.raises(LocalError):
            ReleasedModel(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(b":", b": ", 1),
        lambda text: text + b" ",
        lambda text: text.replace(b'"rounds":3', b'"rounds":3.0', 1),
        lambda text: text.replace(b'"loss":0.31', b'"loss":NaN', 1),
        lambda text: text.replace(b'"loss":0.31', b'"loss":1e999', 1),
        lambda text: text.replace(b'"loss":0.31', b'"loss":' + b"9" * 5000, 1),
        lambda text: text.replace(b'"name"', b'"name":"x","name"', 1),
        lambda text: text.replace(b"{", b'{"also":1,', 1),
        lambda text: text.replace(b'"void":0', b'"void":null', 1),
        lambda text: text.replace(b'"void":0', b'"void":true', 1),
        lambda text: b"[" * 100_000,
        lambda text: b"\xff",
        lambda text: text.replace(b'"owner"', b'"\\ud800"', 1),
    ],
)
def test_a_manifest_has_one_form(change: Callable[[bytes], bytes]) -> None:
    head, _ = SIGNERS.parts()
    assert change(head.manifest) != head.manifest
    with pytest.raises(RemoteError, match="manifest"):
        Manifest.from_bytes(change(head.manifest))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_manifest_or_refused(data: bytes) -> None:
    with pytest.raises(RemoteError):
        Manifest.from_bytes(data)


# -- chance ---------------------------------------------------------------------------------------


def corrupted(data: bytes, chance: random.Random) -> bytes:
    """Another file: a flipped bit, a changed or swapped stretch, something cut out, put in or appended."""
    at = chance.randrange(len(data))
    size = min(len(data) - at, chance.choice((1, 4, 50, 1000)))
    kind = chance.randrange(7)
    if kind == 0:
        return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
    if kind == 1:
        return data[:at]
    if kind == 2:
        return data[:at] + data[at + size :]
    if kind == 3:
        return data[:at] + chance.randbytes(size) + data[at:]
    if kind == 4:
        return data[:at] + chance.randbytes(size) + data[at + size :]
    if kind == 5:
        return data + chance.randbytes(size)
    to = chance.randrange(len(data))
    one, two = sorted(((at, at + size), (to, to + size)))
    if one[1] > two[0]:
        return data[:at] + bytes(size) + data[at + size :]
    return data[: one[0]] + data[two[0] : two[1]] + data[one[1] : two[0]] + data[one[0] : one[1]] + data[two[1] :]


def test_ten_thousand_corruptions_are_found_and_named(tmp_path: Path) -> None:
    """None is harmless: every byte is signed, or a length that has to fit."""
    head, model = SIGNERS.parts()
    data, chance, path = head.encode() + model, random.Random(7), tmp_path / "m"  # noqa: S311 - for chance, not for secrets
    done = 0
    while done < 10_000:
        other = corrupted(data, chance)
        if other == data:
            continue
        done += 1
        path.write_bytes(other)
        with pytest.raises(WardroundError) as raised:
            checked(path)
        assert 10 < len(str(raised.value)) < 500
        assert "\n" not in str(raised.value)


def test_every_single_byte_counts(tmp_path: Path) -> None:
    head, model = SIGNERS.parts()
    data, path = head.encode() + model, tmp_path / "m"
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(WardroundError):
            checked(path)


def test_times_are_to_the_second_and_in_utc() -> None:
    head, _ = SIGNERS.parts()
    found = Manifest.from_bytes(head.manifest)
    for text in ("2026-11-30T12:00:00", "2026-11-30T12:00:00Z", "2026-11-30T13:00:00+01:00", "now", ""):
        with pytest.raises(ValueError, match="ISO 8601"):
            replace(found, made=text)
    assert head.at == datetime(2026, 11, 30, 14, tzinfo=UTC)


def test_a_plan_is_bounded(tmp_path: Path) -> None:
    head, model = SIGNERS.parts()
    big = replace(head, plan=b"#" * (MAX_PLAN_BYTES + 1))
    (tmp_path / "m").write_bytes(big.encode() + model)
    with pytest.raises(RemoteError, match="plan of at most"):
        ReleasedModel(tmp_path / "m")


def test_parents_have_digests() -> None:
    with pytest.raises(ValueError, match="sha256"):
        Parent(name="hearts", version=1, sha256="5")
    assert same(Manifest.from_bytes(SIGNERS.parts()[0].manifest)).parents[0].version == 1
