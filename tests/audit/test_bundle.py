"""The bundle of a log: what it must hold, what it proves against others, and what it may not do to its reader."""

import zipfile
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import pytest

from tests.audit.logs import AUTHORITY, OTHER_KEY, SITE_KEY, START, Owner, certificate_of, entries, key_of
from tests.audit.test_corruption import members, packed
from wardround.audit import bundle as bundle_module
from wardround.audit.bundle import Bundle, Certified, verify_bundle, write_bundle
from wardround.audit.head import COSIGNED_KIND, RESTORE_ACCEPTED, CoSigned, Head
from wardround.audit.log import AuditLog
from wardround.audit.record import chained, encode_body, line_of, split_line
from wardround.audit.seal import seal, signer_entry
from wardround.audit.verify import BadRecordError
from wardround.errors import LocalError, RemoteError
from wardround.identity import Authority, make_authority
from wardround.plain_text import in_groups
from wardround.signing_key import SigningKey, fingerprint_of


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
    assert not found.log.remarks and not found.remarks
    assert found.log.key == fingerprint_of(owner.key.public)
    assert found.keys == {
        "Hospital A": (fingerprint_of(SITE_KEY.public),),
        "Hospital B": (fingerprint_of(OTHER_KEY.public),),
    }
    assert "nobody else has signed" in verified(exported(owner)).remarks[0]


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
    found = verified(exported(owner), older)
    assert found.against == 1 and "nobody else has signed" in found.remarks[0]
    stranger = Owner(tmp_path / "stranger")
    stranger.open()
    with pytest.raises(RemoteError, match=r"bundle 1 to compare with: expected heads of the log .*, got none"):
        verified(exported(owner), exported(stranger))


def site_log(path: Path, *heads: Head, name: str = "Hospital A", key: SigningKey = SITE_KEY) -> Owner:
    """The log of a site that was shown these heads."""
    site = Owner(path, name=name, key=key)
    for head in heads:
        site.open().add(COSIGNED_KIND, "wardround server", head=head.table())
    return site


def test_one_bundle_that_fits_does_not_hide_another_that_does_not(owner: Owner, tmp_path: Path) -> None:
    """A server shows one history to Hospital A, and another to Hospital B."""
    other = Owner(tmp_path / "other")
    one, two = owner.open().seal(), other.open().seal()
    a = exported(site_log(tmp_path / "a", one))
    b_site = site_log(tmp_path / "b", two, name="Hospital B", key=OTHER_KEY)
    b, data = exported(b_site), exported(owner, cosigned(one))
    found = verified(data, a)
    assert [(x.where, x.name, x.heads) for x in found.compared] == [("bundle 1 to compare with", "Hospital A", 1)]
    for order in ((a, b), (b, a)):
        number = order.index(b) + 1
        with pytest.raises(
            RemoteError, match=f"^bundle {number} to compare with: 'Hospital B' was shown another log of the server"
        ):
            verified(data, *order)
    b_site.open().add(RESTORE_ACCEPTED, "wardround server", by="IT")
    assert len(verified(data, a, exported(b_site)).remarks) == 1
    b_site.open().add(COSIGNED_KIND, "wardround server", head=two.table())
    with pytest.raises(RemoteError, match="has accepted no restore since"):
        verified(data, a, exported(b_site))
    silent = exported(site_log(tmp_path / "c", name="Hospital C", key=key_of(7)))
    with pytest.raises(RemoteError, match="bundle 2 to compare with: expected heads of the log"):
        verified(data, a, silent)


def test_the_log_of_a_site_is_compared_with_an_older_one(owner: Owner, tmp_path: Path) -> None:
    site = site_log(tmp_path / "a", owner.open().seal())
    older = exported(site)
    site.open().append(entries(3))
    assert verified(exported(site), older).against == 1
    with pytest.raises(RemoteError, match=r"bundle 1 to compare with: expected heads of the log .* of 'Hospital A'"):
        verified(exported(site), exported(owner))


def test_a_bundle_from_before_what_a_site_has_seen_says_that_it_may_be_old(owner: Owner, tmp_path: Path) -> None:
    old = exported(owner)
    owner.open().append(entries(3))
    site = exported(site_log(tmp_path / "a", owner.open().seal()))
    with pytest.raises(
        BadRecordError, match=r"is missing: .*'Hospital A' \(in bundle 1 .*exported before then: ask for"
    ):
        verified(old, site)
    assert verified(exported(owner), site).against == 1


def test_an_error_names_the_file_that_it_is_about(owner: Owner, tmp_path: Path) -> None:
    site = site_log(tmp_path / "a", owner.open().seal())
    data = exported(owner)
    site.open().seal()
    site.path.write_bytes(site.path.read_bytes().replace(b"head.cosigned", b"head.kosigned"))
    out = tmp_path / "a.zip"
    out.write_bytes(exported(site))
    with out.open("rb") as file, pytest.raises(BadRecordError, match=r"a\.zip: record 4: was changed") as fault:
        verify_bundle(BytesIO(data), AUTHORITY, against=[file])
    assert fault.value.record == 4
    with pytest.raises(RemoteError, match=r"^bundle 2 to compare with: expected a zip file"):
        verified(data, data, b"x")


def test_the_key_of_a_log_does_not_change(owner: Owner) -> None:
    """Whoever has the authority's key can certify another, and go on with what a hospital has written."""
    log, lines = owner.open(), owner.lines()
    before, seq, time = bytes.fromhex(split_line(lines[-1])[1].decode()), len(lines), log.seal().time
    certificate = certificate_of(key_of(9), owner.name)
    for entry in (signer_entry(certificate, owner.name), *entries(1)):
        body = encode_body(seq + 1, time, entry, "00" * 16)
        before, seq = chained(before, sha256(body).digest()), seq + 1
        lines.append(line_of(body, before))
    entry, head = seal(key_of(9), certificate, log.id, seq, before, time)
    body = encode_body(seq + 1, time, entry, "00" * 16)
    lines.append(line_of(body, chained(before, sha256(body).digest())))
    owner.path.write_bytes(b"".join(lines))
    out = owner.folder.parent / "b.zip"
    write_bundle(out, owner.path, head=head, name=owner.name, now=START)
    was, now = (in_groups(fingerprint_of(key.public)) for key in (owner.key, key_of(9)))
    with pytest.raises(BadRecordError, match=f"names another key, {now}, than the one that began the log, {was}"):
        verified(out.read_bytes())


def test_the_owner_of_a_log_is_no_co_signer_of_it(owner: Owner) -> None:
    head = owner.open().seal()
    for bad in (
        Certified(
            cosigned=CoSigned.make(SITE_KEY, head, owner.name, START), certificate=certificate_of(SITE_KEY, owner.name)
        ),
        cosigned(head, "Hospital A", owner.key),
    ):
        with pytest.raises(RemoteError, match="name or the key of the log's owner"):
            verified(exported(owner, bad))
    found = verified(exported(owner, cosigned(head), cosigned(head, "Hospital B", SITE_KEY)))
    assert found.remarks == ("'Hospital B' has co-signed with the key of 'Hospital A': they are one",)


def test_what_no_reader_takes_is_not_written(owner: Owner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = owner.open().seal()
    monkeypatch.setitem(bundle_module._MOST_BYTES, "cosigned.jsonl", 5000)
    with pytest.raises(LocalError, match=r"cosigned\.jsonl: expected at most 5000 bytes"):
        exported(owner, *[cosigned(head)] * 9)
    assert [one.name for one in tmp_path.iterdir()] == ["audit"]


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
        *(('"bytes": 0', f'"bytes": {bad}') for bad in ("Infinity", "NaN", "0.0", "false", "-1")),
        ('"format": 1', '"format": 1.0'),
        ('"format": 1', '"format": true'),
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
