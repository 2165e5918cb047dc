"""Ten thousand random corruptions of logs and bundles: each is found, or has changed nothing that is said.

What may be harmless is exactly this: of a log, that the line of its last seal is gone, which the head that it says
does not count; of a bundle, bytes of the zip container that are not of a member's content (times, attributes and the
like), so that the verified content is the very same, and in its manifest the time of the export, which nobody signs.
"""

import itertools
import random
import zipfile
from dataclasses import replace
from io import BytesIO

import pytest

from tests.audit.logs import AUTHORITY, AUTHORITY_DER, SITE_KEY, START, Owner, certificate_of, entries, verify_lines
from wardround.audit.bundle import Certified, verify_bundle, write_bundle
from wardround.audit.head import CoSigned
from wardround.audit.verify import BadRecordError, SeenHead, Verified
from wardround.errors import RemoteError
from wardround.identity import Authority

LOGS, BUNDLES, MEMBERS = 6500, 3500, 600


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Owner:
    owner = Owner(tmp_path_factory.mktemp("corrupt") / "audit")
    log = owner.open()
    for count in (5, 9, 2):
        log.append(entries(count))
        log.seal()
    return owner


@pytest.fixture(scope="module")
def bundle(owner: Owner) -> bytes:
    log = owner.open()
    head = log.seal()
    out = owner.folder.parent / "bundle.zip"
    cosigned = CoSigned.make(SITE_KEY, head, "Hospital A", START)
    certified = Certified(cosigned=cosigned, certificate=certificate_of(SITE_KEY, "Hospital A"))
    write_bundle(out, owner.path, head=head, name=owner.name, now=START, cosigned=[certified])
    return out.read_bytes()


def corrupted(chance: random.Random, data: bytes, lines: list[bytes]) -> tuple[str, bytes]:
    """What was done, and the bytes after it."""
    count, how = len(lines), chance.choice(["flip", "delete", "swap", "cut", "insert", "splice"])
    number, at = chance.randrange(1, count + 1), chance.randrange(len(data))
    kept = list(lines)
    if how == "flip":
        bad = bytearray(data)
        bad[at] ^= 1 << chance.randrange(8)
        return how, bytes(bad)
    if how == "cut":
        return how, data[:at]
    if how == "splice":
        return how, data[:at] + chance.randbytes(chance.randrange(1, 30)) + data[at + chance.randrange(0, 30) :]
    if how == "delete":
        del kept[number - 1 : number - 1 + chance.randrange(1, 4)]
    elif how == "swap":
        other = chance.randrange(1, count + 1)
        kept[number - 1], kept[other - 1] = kept[other - 1], kept[number - 1]
    else:
        kept.insert(number, chance.choice([chance.choice(lines), chance.randbytes(50) + b"\n", b"{}\n", b"\n"]))
    return how, b"".join(kept)


def first_difference(lines: list[bytes], bad: bytes) -> int:
    """The number of the first line that is not what it was."""
    found = bad.split(b"\n")
    same = itertools.takewhile(lambda pair: pair[0] == pair[1] + b"\n", zip(lines, found[:-1], strict=False))
    return 1 + sum(1 for _ in same)


def test_every_corruption_of_a_log_is_found_and_the_first_bad_record_named(owner: Owner) -> None:
    lines = owner.lines()
    data, head = b"".join(lines), SeenHead(head=owner.open().seal(), by="here")
    whole = verify_lines(lines, head)
    chance = random.Random(7)  # noqa: S311
    found = {"flip": 0, "delete": 0, "swap": 0, "cut": 0, "insert": 0, "splice": 0}
    for _ in range(LOGS):
        how, bad = corrupted(chance, data, lines)
        if bad == data:
            assert verified(bad, head) == whole
            continue
        try:
            got = verified(bad, head)
        except BadRecordError as fault:
            assert fault.record == first_difference(lines, bad), (how, fault)
            found[how] += 1
        else:
            # what comes behind the head that is compared with is the last seal, whose own line may be gone
            assert how in ("cut", "delete") and got.records == whole.records - 1 == head.head.seq, how
            assert got.remarks or got.sealed < head.head.seq
    assert min(found.values()) > LOGS / 10


def verified(data: bytes, head: SeenHead) -> Verified:
    return verify_lines([data], head)


def test_every_corruption_of_a_bundle_is_found_or_changes_nothing(bundle: bytes) -> None:
    whole = verify_bundle(BytesIO(bundle), AUTHORITY)
    content = members(bundle)
    chance, found = random.Random(8), 0  # noqa: S311
    for _ in range(BUNDLES):
        bad = bytearray(bundle)
        how = chance.randrange(4)
        at = chance.randrange(len(bad))
        if how < 2:
            bad[at] ^= 1 << chance.randrange(8)
        elif how == 2:
            del bad[at : at + chance.randrange(1, 40)]
        else:
            bad[at:at] = chance.randbytes(chance.randrange(1, 40))
        try:
            got = verify_bundle(BytesIO(bytes(bad)), AUTHORITY)
        except RemoteError as fault:
            assert "\n" not in str(fault)
            found += 1
        else:
            assert got == whole and members(bytes(bad)) == content
    assert found > BUNDLES * 0.8


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_every_corruption_inside_a_bundle_is_found(bundle: bytes) -> None:
    """As above, with the zip made anew around the changed member: its own checksums help nobody."""
    content, whole = members(bundle), verify_bundle(BytesIO(bundle), AUTHORITY)
    chance = random.Random(9)  # noqa: S311
    for _ in range(MEMBERS):
        name = chance.choice(sorted(content))
        bad = bytearray(content[name])
        bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        try:
            got = verify_bundle(BytesIO(packed({**content, name: bytes(bad)})), AUTHORITY)
        except RemoteError:
            continue
        # when a bundle was exported is signed by nobody, and space between the keys of the manifest means nothing
        assert name == "manifest.json" and replace(got, exported="") == replace(whole, exported="")


def packed(content: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return out.getvalue()


def test_an_authority_is_not_corrupted_into_another(bundle: bytes) -> None:
    chance = random.Random(10)  # noqa: S311
    for _ in range(200):
        bad = bytearray(AUTHORITY_DER)
        bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        with pytest.raises(RemoteError):
            verify_bundle(BytesIO(bundle), Authority(bytes(bad)))


def test_random_bytes_are_no_bundle_and_no_log() -> None:
    chance = random.Random(11)  # noqa: S311
    for _ in range(300):
        data = chance.randbytes(chance.randrange(400))
        with pytest.raises(RemoteError):
            verify_bundle(BytesIO(data), AUTHORITY)
        with pytest.raises(BadRecordError):
            verify_lines([data])
