"""What is done to a log, and which record is named for it."""

import random
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import pytest

from tests.audit.logs import (
    AUTHORITY,
    OTHER_KEY,
    SERVER_KEY,
    SITE_KEY,
    START,
    Owner,
    certificate_of,
    entries,
    forged,
    key_of,
    rechained,
    verify_lines,
)
from wardround.audit.head import Head, sign_head
from wardround.audit.record import MOST_LINE_BYTES
from wardround.audit.verify import BadRecordError, SeenHead, verify_file, verify_log
from wardround.errors import RemoteError


@pytest.fixture
def owner(tmp_path: Path) -> Owner:
    """A log of records 1 to 24; the seals are 3, 14 and 24, and 4 to 13 are rounds 1 to 10."""
    owner = Owner(tmp_path / "audit")
    log = owner.open()
    log.append(entries(10))
    log.seal()
    log.append(entries(9))
    log.seal()
    return owner


def seen(owner: Owner) -> SeenHead:
    return SeenHead(head=owner.open().seal(), by="by 'Hospital A'")


def refused(lines: list[bytes], record: int, what: str, *heads: SeenHead) -> None:
    with pytest.raises(BadRecordError, match=what) as fault:
        verify_lines(lines, *heads)
    assert fault.value.record == record, fault.value


def test_a_whole_log_is_found_whole(owner: Owner) -> None:
    found = owner.verify(seen(owner))
    assert (found.records, found.sealed, found.agreed, found.remarks) == (24, 23, 1, ())
    assert found.begun < found.ended
    assert verify_file(owner.path, AUTHORITY, heads=[seen(owner)]) == found


@pytest.mark.parametrize("number", range(1, 25))
def test_every_flipped_bit_is_found_at_its_record(owner: Owner, number: int) -> None:
    lines = owner.lines()
    line, chance = lines[number - 1], random.Random(number)  # noqa: S311
    for at in sorted({0, 1, len(line) - 1, len(line) - 2, *(chance.randrange(len(line)) for _ in range(40))}):
        bad = bytearray(line)
        bad[at] ^= 1 << chance.randrange(8)
        with pytest.raises(BadRecordError) as fault:
            verify_lines([*lines[: number - 1], bytes(bad), *lines[number:]])
        assert fault.value.record == number


@pytest.mark.parametrize("number", range(2, 24))
def test_a_deleted_record_is_missing(owner: Owner, number: int) -> None:
    lines = owner.lines()
    del lines[number - 1]
    refused(lines, number, f"is missing: record {number + 1} follows")


def test_a_deleted_first_record_is_missing(owner: Owner) -> None:
    refused(owner.lines()[1:], 1, ".")


@pytest.mark.parametrize("first", [2, 4, 13, 20, 23])
@pytest.mark.parametrize("apart", [1, 3])
def test_swapped_records_are_named(owner: Owner, first: int, apart: int) -> None:
    lines = owner.lines()
    if first + apart > len(lines):
        return
    other = first + apart
    lines[first - 1], lines[other - 1] = lines[other - 1], lines[first - 1]
    refused(lines, first, f"stands behind record {other}")


@pytest.mark.parametrize("number", [2, 9, 24])
def test_a_record_that_was_put_in_is_named(owner: Owner, number: int) -> None:
    lines = owner.lines()
    refused([*lines[:number], forged(lines[5], seq=number + 1), *lines[number:]], number + 1, ".")
    refused([*lines[:number], lines[1], *lines[number:]], number + 1, "in its place stands a record 2 that was put in")


def test_a_record_put_in_with_the_number_of_the_next_is_named(owner: Owner) -> None:
    lines = owner.lines()
    refused([*lines[:8], forged(lines[8], subject="run 99"), *lines[8:]], 9, "was put in")


def test_a_log_that_was_cut_is_found_by_a_head_that_was_kept(owner: Owner) -> None:
    head = seen(owner)
    for left in (0, 1, 2):
        refused(owner.lines()[:left], left + 1, "is missing", head)
    what = r"is missing: on 2026-03-01 08:00 UTC there were 23 records.*by 'Hospital A'"
    refused(owner.lines()[:14], 15, what, head)


def test_a_line_that_was_cut_is_named(owner: Owner) -> None:
    lines = owner.lines()
    refused([*lines[:-1], lines[-1][:-1]], 24, "is cut off")
    refused([*lines[:9], lines[9][:30]], 10, "is cut off")
    owner.path.write_bytes(b"".join(lines)[:-1])
    with pytest.raises(BadRecordError, match="record 24: is cut off"):
        verify_file(owner.path, AUTHORITY)


def test_records_behind_the_last_seal_are_remarked(owner: Owner) -> None:
    assert verify_lines(owner.lines()[:20]).remarks == ("the last 6 records have no seal yet",)


def test_a_changed_record_whose_hashes_were_made_to_fit_is_found_by_the_seal(owner: Owner) -> None:
    lines = owner.lines()
    lines[17] = forged(lines[17], subject="another")
    refused(rechained(lines), 14, "one of those up to 24")


def test_a_log_that_another_key_has_sealed_anew_is_refused(owner: Owner, tmp_path: Path) -> None:
    """A stranger with a certificate of its own writes the whole log anew under the owner's name."""
    stranger = Owner(tmp_path / "other", name=owner.name, key=OTHER_KEY)
    stranger.certificate = certificate_of(OTHER_KEY, owner.name, by=key_of(9))
    stranger.open().seal()
    refused(stranger.lines(), 2, "names a key that is not the owner's")
    stranger = Owner(tmp_path / "site", name="Hospital B", key=OTHER_KEY)
    stranger.open().seal()
    lines = stranger.lines()
    lines[0] = forged(lines[0], detail={"format": 1, "log": "ab" * 16, "name": owner.name}, subject=owner.name)
    with pytest.raises(BadRecordError, match=r"record [12]"):
        verify_lines(rechained(lines))


def test_the_owner_cannot_write_its_history_anew_where_a_head_was_kept(owner: Owner) -> None:
    head = seen(owner)
    lines = owner.lines()
    owner.path.write_bytes(b"".join(lines[:14]))
    log = owner.open()
    log.append(entries(12, "round.better"))
    log.seal()
    assert owner.verify().records > 24
    refused(owner.lines(), 1, "one of those up to 23 is not what was there", head)
    early = verify_lines(lines[:14]).head
    refused(owner.lines(), 14, "one of those up to 23", SeenHead(head=early, by="by 'Hospital B'"), head)


def test_nobody_can_accuse_the_owner_with_a_head_that_it_did_not_sign(owner: Owner) -> None:
    real = seen(owner).head
    for seq in (20, 99):
        made = sign_head(OTHER_KEY, real.log, seq, bytes(32), real.time)
        with pytest.raises(RemoteError, match="kept by 'Hospital B' is not signed by 'wardround server'"):
            owner.verify(SeenHead(head=made, by="by 'Hospital B'"))


def test_a_time_that_goes_back_is_named_unless_the_log_says_so(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    log = owner.open()
    owner.clock.now = START - timedelta(hours=2)
    monkeypatch.setattr(log, "_time", "")  # as an owner would write it that does not keep to the rules
    log.append(entries(2))
    log.seal()
    refused(owner.lines(), 25, "has the time 2026-03-01T06:00:0.*, the one before it 2026-03-01T08:00")


def test_a_log_without_a_seal_or_without_anything_is_refused(owner: Owner) -> None:
    refused([], 1, "is missing")
    refused(owner.lines()[:2], 3, "is missing")


def test_a_line_longer_than_a_record_is_not_read(owner: Owner) -> None:
    lines = owner.lines()
    lines[6] = b"{" + b" " * (MOST_LINE_BYTES + 9)
    refused(lines, 7, "is longer than a record can be|is damaged")


def test_a_log_of_a_site_is_checked_by_its_own_certificates(tmp_path: Path) -> None:
    site = Owner(tmp_path / "audit", name="Hospital A", key=SITE_KEY)
    short = (START - timedelta(hours=1), START + timedelta(minutes=1))
    site.certificate = certificate_of(SITE_KEY, "Hospital A", short)
    log = site.open()
    log.append(entries(2))
    log.seal()
    assert site.verify().name == "Hospital A" and not site.verify().remarks
    site.clock.now = START + timedelta(days=1)
    log.append(entries(2))
    log.seal()
    log.append(entries(2))
    log.seal()
    assert site.verify().remarks == ("record 9: sealed after the certificate of its key had ended",)
    log.signed_with(certificate_of(SITE_KEY, "Hospital A"))
    log.seal()
    assert len(site.verify().remarks) == 1


def test_only_the_first_bytes_are_read_where_a_size_is_given(owner: Owner) -> None:
    data = b"".join(owner.lines())
    size = len(b"".join(owner.lines()[:14]))
    assert verify_log(BytesIO(data), AUTHORITY, size=size).records == 14


def test_a_head_of_another_log_does_not_fit(owner: Owner) -> None:
    real = seen(owner).head
    other: Head = sign_head(SERVER_KEY, bytes(16), real.seq, real.hash, real.time)
    refused(owner.lines(), 1, "one of those up to 23", SeenHead(head=other, by="by 'Hospital B'"))
