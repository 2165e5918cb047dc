"""The bundle of a log: what it must hold, what it proves against others, and what it may not do to its reader."""

import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from tests.audit.logs import AUTHORITY, OTHER_KEY, SITE_KEY, START, Owner, certificate_of, entries, key_of
from tests.audit.test_corruption import members, packed
from wardround.audit.bundle import Bundle, Certified, verify_bundle, write_bundle
from wardround.audit.head import COSIGNED_KIND, RESTORE_ACCEPTED, CoSigned, Head
from wardround.audit.log import AuditLog
from wardround.audit.verify import BadRecordError
from wardround.errors import LocalError, RemoteError
from wardround.identity import Authority, make_authority
from wardround.signing_key import SigningKey


@pytest.fixture
def owner(tmp_path: Path) -> Owner:
    owner = Owner(tmp_path / "audit")
    owner.open().append(entries(7))
    return owner


def cosigned(head: Head, name: str = "Hospital A", key: SigningKey = SITE_KEY) -> Certified:
    return Certified(cosigned=CoSigned.make(key, head, name, START), certificate=certificate_of(key, name))


def exported(owner: Owner, *heads: Certified) -> bytes:
    out = owner.folder.parent / f"{len(list(owner.folder.parent.iterdir()))}.zip"
    write_bundle(out, owner.path, head=owner.open().seal(), name=owner.name, now=START, cosigned=heads)
    assert out.stat().st_mode & 0o777 == 0o600
    return out.read_bytes()


def verified(data: bytes, *against: bytes) -> Bundle:
    return verify_bundle(BytesIO(data), AUTHORITY, against=[BytesIO(one) for one in against])


def test_a_bundle_has_the_log_its_head_and_what_sites_have_co_signed(owner: Owner) -> None:
    early = owner.open().seal()
    owner.open().append(entries(3))
    found = verified(exported(owner, cosigned(early), cosigned(early, "Hospital B", OTHER_KEY)))
    assert (found.log.name, found.log.records, found.log.agreed) == ("wardround server", 15, 3)
    assert found.sites == {"Hospital A": early, "Hospital B": early}
    assert not found.log.remarks


def test_a_bundle_is_never_written_over_a_file(owner: Owner, tmp_path: Path) -> None:
    (tmp_path / "b.zip").write_bytes(b"x")
    with pytest.raises(LocalError, match="is there already"):
        write_bundle(tmp_path / "b.zip", owner.path, head=owner.open().seal(), name=owner.name, now=START)


def test_a_bundle_that_cannot_be_written_is_not_there(owner: Owner, tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="there is no bundle"):
        write_bundle(tmp_path / "b.zip", tmp_path / "nothing", head=owner.open().seal(), name="x", now=START)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["audit"]


def test_a_cut_log_does_not_fit_what_a_site_has_co_signed(owner: Owner) -> None:
    signed = cosigned(owner.open().seal())
    owner.path.write_bytes(b"".join(owner.lines()[:5]))
    with pytest.raises(BadRecordError, match=r"record 7: is missing: .* 10 records.* 'Hospital A'"):
        verified(exported(owner, signed))


def test_who_left_out_the_co_signatures_is_found_by_the_bundle_of_the_site(owner: Owner, tmp_path: Path) -> None:
    """A server writes its history anew and leaves out the site that has seen the other one; the site's log has it."""
    head = owner.open().seal()
    site = Owner(tmp_path / "site", name="Hospital A", key=SITE_KEY)
    site.open().add(COSIGNED_KIND, "wardround server", head=head.table())
    evidence, honest = exported(site), exported(owner)
    assert verified(honest, evidence).against == 1
    owner.path.write_bytes(b"".join(owner.lines()[:6]))
    log: AuditLog = owner.open()
    log.append(entries(9, "round.better"))
    dishonest = exported(owner)
    assert verified(dishonest).log.records > head.seq
    with pytest.raises(BadRecordError, match=r"up to 10 is not what was there .*kept by 'Hospital A'"):
        verified(dishonest, evidence)
    with pytest.raises(BadRecordError, match="kept in bundle 1"):
        verified(dishonest, honest)
    site.open().add(RESTORE_ACCEPTED, "wardround server", by="IT")
    found = verified(dishonest, exported(site))
    assert found.against == 0 and "'Hospital A' accepted on 2026-03-01" in found.remarks[0]


def test_an_older_bundle_of_the_same_log_fits_and_one_of_another_log_says_nothing(owner: Owner, tmp_path: Path) -> None:
    older = exported(owner)
    owner.open().append(entries(3))
    assert verified(exported(owner), older).against == 1
    stranger = Owner(tmp_path / "stranger")
    stranger.open()
    with pytest.raises(RemoteError, match="expected other bundles with heads of this log, got none"):
        verified(exported(owner), exported(stranger))


def test_a_co_signature_needs_the_key_that_the_authority_certifies_for_the_name(owner: Owner) -> None:
    head = owner.open().seal()
    good = cosigned(head)
    for bad in (
        Certified(cosigned=good.cosigned, certificate=certificate_of(OTHER_KEY, "Hospital A")),
        Certified(cosigned=good.cosigned, certificate=certificate_of(SITE_KEY, "Hospital B")),
        Certified(cosigned=good.cosigned, certificate=certificate_of(SITE_KEY, "Hospital A", by=key_of(9))),
        Certified(cosigned=good.cosigned, certificate=b"none"),
        Certified(
            cosigned=good.cosigned, certificate=certificate_of(SITE_KEY, "Hospital A", (START.replace(hour=9),) * 2)
        ),
    ):
        with pytest.raises(RemoteError, match="Hospital A: expected"):
            verified(exported(owner, bad))


def test_another_authority_verifies_nothing(owner: Owner) -> None:
    key = key_of(9)
    der = make_authority(key, "cardio", not_before=START, not_after=START.replace(year=2030), random=bytes)
    with pytest.raises(BadRecordError, match="record 2: names a key that is not the owner's"):
        verify_bundle(BytesIO(exported(owner)), Authority(der))


@pytest.mark.parametrize("name", ["../manifest.json", "/log.jsonl", "log.jsonl", "more", "log.jsonl/"])
def test_members_that_do_not_belong_are_refused(owner: Owner, name: str) -> None:
    out = BytesIO(exported(owner))
    with zipfile.ZipFile(out, "a") as archive:
        if name == "log.jsonl":
            with pytest.warns(UserWarning, match="Duplicate name"):
                archive.writestr(name, b"x")
        else:
            archive.writestr(name, b"x")
    with pytest.raises(RemoteError, match="expected exactly"):
        verified(out.getvalue())


@pytest.mark.parametrize("name", ["manifest.json", "log.jsonl", "cosigned.jsonl"])
def test_a_missing_member_is_refused(owner: Owner, name: str) -> None:
    content = members(exported(owner))
    del content[name]
    with pytest.raises(RemoteError, match="expected exactly"):
        verified(packed(content))


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(owner: Owner, compression: int) -> None:
    with pytest.raises(RemoteError, match="deflated"):
        verified(packed(members(exported(owner)), compression))


@pytest.mark.parametrize("name", ["manifest.json", "log.jsonl", "cosigned.jsonl"])
def test_a_bomb_is_not_unpacked(owner: Owner, name: str) -> None:
    content = members(exported(owner))
    bomb = packed({**content, name: content[name][:-1] + b" " * (40 << 20)})
    assert len(bomb) < 1 << 20
    with pytest.raises(RemoteError):
        verified(bomb)


def test_what_the_manifest_says_is_checked(owner: Owner) -> None:
    content = members(exported(owner))
    text = content["manifest.json"].decode()
    for old, new in (
        ('"format": 1', '"format": 2'),
        ("wardround server", "Hospital A"),
        ('"seq": 10', '"seq": 9'),
        ('"bytes"', '"size"'),
        ('"sha256": "', '"sha256": "00'),
        ("{", "[" * 60000),
    ):
        assert old in text
        with pytest.raises(RemoteError):
            verified(packed({**content, "manifest.json": text.replace(old, new).encode()}))


def test_co_signed_heads_belong_to_the_log_of_a_server(owner: Owner, tmp_path: Path) -> None:
    site = Owner(tmp_path / "site", name="Hospital A", key=SITE_KEY)
    head = site.open().seal()
    with pytest.raises(RemoteError, match="of a server's log"):
        verified(exported(site, cosigned(head)))
    with pytest.raises(RemoteError, match="head of another log"):
        verified(exported(owner, cosigned(head)))
