"""A second decoder of the test vectors, written from the descriptions alone: it imports nothing of wardround.

It reads every message, compares its fields with those beside it, checks every digest, signature, commitment and proof,
opens the bundles, and plays the server: it interpolates the seeds, takes the masks off and compares the sums.
`python second_decoder.py FILE` says what it checked, or fails.
"""

import hashlib
import hmac
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

Fields = dict[str, Any]
Read = Callable[["Cursor"], Any]


class Cursor:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        assert self.at + size <= len(self.data), "truncated"
        self.at += size
        return self.data[self.at - size : self.at]


def number(size: int) -> Read:
    return lambda cursor: int.from_bytes(cursor.take(size), "little")


def raw(size: int) -> Read:
    return lambda cursor: cursor.take(size).hex()


def sized(length: int) -> Read:
    return lambda cursor: cursor.take(number(length)(cursor)).hex()


def text(cursor: Cursor) -> str:
    return bytes.fromhex(sized(2)(cursor)).decode()


def blocks(cursor: Cursor) -> list[str]:
    count, size = number(2)(cursor), number(4)(cursor)
    return [cursor.take(size).hex() for _ in range(count)]


def maybe(read: Read) -> Read:
    return lambda cursor: (None, read)[number(1)(cursor)] and read(cursor)


def many(read: Read) -> Read:
    return lambda cursor: [read(cursor) for _ in range(number(4)(cursor))]


def record(**fields: Read) -> Read:
    return lambda cursor: {name: read(cursor) for name, read in fields.items()}


u8, u16, u32, u64, digest, signature = number(1), number(2), number(4), number(8), raw(32), raw(64)
entry = record(
    run=text,
    epoch=u32,
    authority=digest,
    plan=digest,
    parameters=digest,
    name=text,
    public_key=digest,
    certificate=sized(4),
    nonce_commitment=maybe(digest),
)
hello = record(entry=entry, signature=signature)
endorsement = record(member=u16, nonce=maybe(raw(32)), signature=signature)
descriptor = record(
    run=text,
    epoch=u32,
    round=u32,
    task=u8,
    model=digest,
    order=digest,
    roster=digest,
    group_table=maybe(digest),
    deadline_ms=u64,
)
header = record(
    h=digest,
    committee=u16,
    member=u16,
    vector=digest,
    scalars=digest,
    ciphertexts=blocks,
    commitments=blocks,
    roots=blocks,
)
offered = record(header=header, signature=signature, sealed=sized(4))
vote = record(member=u16, signature=signature)
opening = record(dealer=u16, peer=u16, share=raw(32), proof=blocks)
group_sum = record(group=u16, members=many(u16), sum=digest)
KINDS: dict[int, tuple[str, Read]] = {
    1: ("Hello", hello),
    2: ("Roster", record(hellos=many(hello), group_table=maybe(digest))),
    3: ("RosterSignature", record(run=text, epoch=u32, roster=digest, endorsement=endorsement)),
    4: ("RosterSignatures", record(run=text, epoch=u32, roster=digest, endorsements=many(endorsement))),
    5: ("RoundStart", record(descriptor=descriptor, signature=signature)),
    6: ("Masked", record(header=header, signature=signature, vector=sized(8), scalars=sized(8), sealed=blocks)),
    7: (
        "SurvivorOffer",
        record(h=digest, committee=u16, receiver=u16, groups=many(record(group=u16, members=many(offered)))),
    ),
    8: (
        "SurvivorSignature",
        record(
            h=digest,
            committee=u16,
            member=u16,
            survivors=digest,
            signature=signature,
            reports=many(record(dealer=u16, fault=u8)),
            reports_signature=maybe(signature),
        ),
    ),
    9: ("UnmaskRequest", record(h=digest, committee=u16, survivors=digest, votes=many(vote))),
    10: (
        "UnmaskAnswer",
        record(h=digest, committee=u16, member=u16, survivors=digest, openings=many(opening)),
    ),
    11: ("Published", record(h=digest, committee=u16, groups=many(group_sum), signature=signature)),
    12: ("Refusal", record(run=text, epoch=u32, round=u32, cause=u8, party=maybe(text), reason=text)),
    13: ("GroupTable", record(run=text, groups=many(record(names=many(text))))),
    14: ("Descriptor", descriptor),
    15: ("Header", header),
    16: ("SurvivorList", record(survivors=many(record(member=u16, header=digest)))),
    17: ("EpochStart", record(run=text, epoch=u32)),
}


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def parsed(data: bytes) -> tuple[str, Fields]:
    assert data[:4] == b"WSA1"
    kind, read = KINDS[data[4]]
    cursor = Cursor(data[5:])
    fields = read(cursor)
    assert cursor.at == len(cursor.data), "bytes left"
    return kind, fields


def put(name: str) -> bytes:
    return len(name.encode()).to_bytes(2, "little") + name.encode()


def put_blocks(values: list[str]) -> bytes:
    size = len(values[0]) // 2 if values else 0
    return len(values).to_bytes(2, "little") + size.to_bytes(4, "little") + bytes.fromhex("".join(values))


def put_header(one: Fields) -> bytes:
    """Written back, since a header's digest is over bytes that a longer message only contains."""
    out: bytes = b"WSA1\x0f" + bytes.fromhex(one["h"])
    out += one["committee"].to_bytes(2, "little") + one["member"].to_bytes(2, "little")
    out += bytes.fromhex(one["vector"] + one["scalars"])
    return out + put_blocks(one["ciphertexts"]) + put_blocks(one["commitments"]) + put_blocks(one["roots"])


def be(index: int) -> bytes:
    return index.to_bytes(2, "big")


def keystream(seed: bytes, lane: int, size: int) -> bytes:
    """One segment is enough for what the vectors hold."""
    start = lane.to_bytes(4, "big") + bytes(8) + (2).to_bytes(4, "big")
    return Cipher(algorithms.AES(seed), modes.CTR(start)).encryptor().update(bytes(size))


def words(data: bytes, size: int) -> list[int]:
    return [int.from_bytes(data[at : at + size], "little") for at in range(0, len(data), size)]


def times(a: int, b: int) -> int:
    """In GF(2^8) modulo x^8 + x^4 + x^3 + x + 1."""
    product = 0
    while b:
        product ^= a if b & 1 else 0
        a = a << 1 ^ (0x11B if a & 0x80 else 0)
        b >>= 1
    return product


def interpolated(shares: dict[int, bytes]) -> bytes:
    """The value at 0; holder l has x = l + 1."""
    total = bytes(32)
    for i, share in shares.items():
        weight = 1
        for j in shares:
            if j != i:
                inverse = next(c for c in range(256) if times(c, (i + 1) ^ (j + 1)) == 1)
                weight = times(weight, times(j + 1, inverse))
        total = bytes(a ^ times(weight, b) for a, b in zip(total, share, strict=True))
    return total


def folded(leaf: bytes, at: int, count: int, proof: list[bytes]) -> bytes:
    """The top of a tree in which the odd one of a level is kept."""
    left = list(proof)
    while count > 1:
        if at ^ 1 < count:
            beside = left.pop(0)
            leaf = sha(b"wr-node1", beside, leaf) if at & 1 else sha(b"wr-node1", leaf, beside)
        at, count = at >> 1, (count + 1) // 2
    assert not left
    return leaf


class Checker:
    """What one file of vectors says, checked step by step."""

    def __init__(self, vectors: Fields) -> None:
        self.context = vectors["context"]
        self.raw = {one["name"]: bytes.fromhex(one["hex"]) for one in vectors["messages"]}
        self.fields: dict[str, Fields] = {}
        for one in vectors["messages"]:
            kind, fields = parsed(self.raw[one["name"]])
            assert (kind, fields) == (one["kind"], one["fields"]), one["name"]
            self.fields[one["name"]] = fields
        self.round = self.fields["descriptor"]
        self.h = sha(self.raw["descriptor"])
        self.signatures = 0
        self.masked = {int(name[7:]): one for name, one in self.fields.items() if name.startswith("masked_")}
        self.groups: list[list[int]] = self.context["groups"]

    def verify(self, key: Ed25519PublicKey, signed: str, domain: str, context: tuple[int, int], body: bytes) -> None:
        """`context`: round and committee."""
        data = b"wardround secagg 1\0" + bytes((len(domain),)) + domain.encode() + put(self.round["run"])
        data += self.round["epoch"].to_bytes(4, "little")
        data += context[0].to_bytes(4, "little") + context[1].to_bytes(2, "little")
        key.verify(bytes.fromhex(signed), data + body)
        self.signatures += 1

    def check_epoch(self) -> None:
        authority = x509.load_der_x509_certificate(bytes.fromhex(self.context["authority"]))
        roster = sha(self.raw["roster"])
        assert self.fields["epoch_start"] == {name: self.round[name] for name in ("run", "epoch")}
        self.keys: list[Ed25519PublicKey] = []
        self.public: list[X25519PublicKey] = []
        names = []
        for one in self.fields["roster"]["hellos"]:
            fields = one["entry"]
            certificate = x509.load_der_x509_certificate(bytes.fromhex(fields["certificate"]))
            certificate.verify_directly_issued_by(authority)
            (name,) = certificate.subject.get_attributes_for_oid(x509.ObjectIdentifier("2.5.4.41"))
            key = certificate.public_key()
            assert isinstance(key, Ed25519PublicKey) and name.value == fields["name"]
            assert bytes.fromhex(fields["authority"]) == sha(bytes.fromhex(self.context["authority"]))
            body = put(fields["run"]) + fields["epoch"].to_bytes(4, "little")
            body += bytes.fromhex(fields["authority"] + fields["plan"] + fields["parameters"]) + put(fields["name"])
            der = bytes.fromhex(fields["certificate"])
            body += bytes.fromhex(fields["public_key"]) + len(der).to_bytes(4, "little") + der
            body += b"\1" + bytes.fromhex(fields["nonce_commitment"])
            self.verify(key, one["signature"], "hello", (0, 0), body)
            self.keys.append(key)
            self.public.append(X25519PublicKey.from_public_bytes(bytes.fromhex(fields["public_key"])))
            names.append(fields["name"])
        assert names == sorted(names, key=str.encode) and self.fields["hello"] == self.fields["roster"]["hellos"][0]
        nonces = b""
        for one in self.fields["roster_signatures"]["endorsements"]:
            self.verify(self.keys[one["member"]], one["signature"], "roster", (0, 0), roster)
            nonce = bytes.fromhex(one["nonce"])
            start = b"wardround nonce 1\0" + put(self.round["run"]) + self.round["epoch"].to_bytes(4, "little")
            committed = self.fields["roster"]["hellos"][one["member"]]["entry"]["nonce_commitment"]
            assert sha(start, put(names[one["member"]]), nonce).hex() == committed
            nonces += nonce
        assert self.fields["roster_signatures"]["roster"] == self.round["roster"] == roster.hex()
        assert self.fields["roster_signature"]["endorsement"] in self.fields["roster_signatures"]["endorsements"]
        assert sha(roster, nonces).hex() == self.context["beacon"]
        assert sha(self.raw["group_table"]).hex() == self.round["group_table"]
        table = [[names.index(name) for name in group["names"]] for group in self.fields["group_table"]["groups"]]
        assert table == self.groups

    def check_masked(self) -> None:
        server = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.context["server_public"]))
        start = self.fields["round_start"]
        assert start["descriptor"] == self.round
        self.verify(server, start["signature"], "descriptor", (self.round["round"], 0), self.h)
        for i, one in self.masked.items():
            head = one["header"]
            assert head["member"] == i and head["h"] == self.h.hex()
            body = self.h + sha(put_header(head))
            self.verify(self.keys[i], one["signature"], "M1", (self.round["round"], 0), body)
            assert sha(bytes.fromhex(one["vector"])).hex() == head["vector"]
            assert sha(bytes.fromhex(one["scalars"])).hex() == head["scalars"]
            assert [sha(bytes.fromhex(sealed)).hex() for sealed in one["sealed"]] == head["ciphertexts"]
            for at, sealed in enumerate(one["sealed"]):
                self.check_bundle(i, at + (at >= i), bytes.fromhex(sealed), head)

    def check_bundle(self, i: int, holder: int, sealed: bytes, head: Fields) -> None:
        """Opened with the holder's key, the shares have the root that the dealer signed."""
        private = X25519PrivateKey.from_private_bytes(bytes.fromhex(self.context["x25519_private"][holder]))
        prk = hmac.digest(bytes.fromhex(self.round["roster"]), private.exchange(self.public[i]), "sha256")
        info = b"share" + self.h + be(i) + be(holder)
        key = HKDFExpand(hashes.SHA256(), 32, info).derive(prk)
        shares = AESGCM(key).decrypt(bytes(12), sealed, self.h + be(i) + be(holder))
        level = [sha(b"wr-leaf1", be(at), shares[32 * at : 32 * at + 32]) for at in range(len(shares) // 32)]
        count = len(level)
        while len(level) > 1:
            odd = level[-1:] if len(level) % 2 else []
            level = [sha(b"wr-node1", level[k], level[k + 1]) for k in range(0, len(level) - 1, 2)] + odd
        assert sha(b"wr-root1", self.h, be(i), be(holder), be(count), level[0]).hex() == head["roots"][holder]

    def check_votes(self) -> None:
        listed = [(i, sha(put_header(one["header"])).hex()) for i, one in sorted(self.masked.items())]
        assert [(one["member"], one["header"]) for one in self.fields["survivor_list"]["survivors"]] == listed
        self.survivors = sha(self.raw["survivor_list"])
        offer = self.fields["survivor_offer"]
        heads = {one["header"]["member"]: one for group in offer["groups"] for one in group["members"]}
        assert {i: one["header"] for i, one in heads.items()} == {i: one["header"] for i, one in self.masked.items()}
        for i, one in heads.items():
            sealed = (
                "" if i == offer["receiver"] else self.masked[i]["sealed"][offer["receiver"] - (offer["receiver"] > i)]
            )
            assert one["sealed"] == sealed and one["signature"] == self.masked[i]["signature"]
        place = (self.round["round"], 0)
        request = self.fields["unmask_request"]
        assert request["survivors"] == self.survivors.hex() and len(request["votes"]) >= self.context["threshold"]
        signed = self.fields["survivor_signature"]
        for one in (*request["votes"], signed):
            self.verify(self.keys[one["member"]], one["signature"], "U", place, self.h + self.survivors)
        body = self.h + len(signed["reports"]).to_bytes(4, "little")
        for one in signed["reports"]:
            body += one["dealer"].to_bytes(2, "little") + bytes((one["fault"],))
        self.verify(self.keys[signed["member"]], signed["reports_signature"], "reports", place, body)

    def check_openings(self) -> None:
        shares: dict[tuple[int, int], dict[int, bytes]] = {}
        for name, answer in self.fields.items():
            if not name.startswith("unmask_answer_"):
                continue
            assert answer["survivors"] == self.survivors.hex()
            for one in answer["openings"]:
                i, share = one["dealer"], bytes.fromhex(one["share"])
                secrets = self.secrets_of(i)
                at = secrets.index(one["peer"])
                proof = [bytes.fromhex(hashed) for hashed in one["proof"]]
                top = folded(sha(b"wr-leaf1", be(at), share), at, len(secrets), proof)
                holder = answer["member"]
                root = sha(b"wr-root1", self.h, be(i), be(holder), be(len(secrets)), top)
                assert root.hex() == self.masked[i]["header"]["roots"][holder]
                shares.setdefault((i, one["peer"]), {})[holder] = share
        self.seeds: dict[tuple[int, int], bytes] = {}
        for (i, peer), held in shares.items():
            assert len(held) >= self.context["threshold"]
            seed = self.seeds[i, peer] = interpolated(held)
            pair = b"wr-pair1" + self.h + be(min(i, peer)) + be(max(i, peer)) + seed
            expected = sha(b"wr-own-1" + self.h + be(i) + seed if i == peer else pair)
            assert expected.hex() == self.masked[i]["header"]["commitments"][self.secrets_of(i).index(peer)]

    def secrets_of(self, i: int) -> list[int]:
        group = next(group for group in self.groups if i in group)
        return [i, *(j for j in group if j != i)]

    def check_sums(self) -> None:
        published = self.fields["published"]
        body = self.h + len(published["groups"]).to_bytes(4, "little")
        for one in published["groups"]:
            body += one["group"].to_bytes(2, "little") + len(one["members"]).to_bytes(4, "little")
            body += b"".join(member.to_bytes(2, "little") for member in one["members"]) + bytes.fromhex(one["sum"])
            vector = self.unmasked(one["members"], "vector", 0, 4)
            assert sha(b"".join(value.to_bytes(4, "little") for value in vector)).hex() == one["sum"]
            for lane, got, size in (
                ("inputs", vector, 4),
                ("scalar_inputs", self.unmasked(one["members"], "scalars", 1, 8), 8),
            ):
                plain = zip(*(self.context[lane][str(i)] for i in one["members"]), strict=True)
                assert got == [sum(values) % 256**size for values in plain]
        server = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.context["server_public"]))
        self.verify(server, published["signature"], "result", (self.round["round"], 0), body)

    def unmasked(self, members: list[int], field: str, lane: int, size: int) -> list[int]:
        length = len(self.masked[members[0]][field]) // 2
        total = [0] * (length // size)
        terms = [(1, words(bytes.fromhex(self.masked[i][field]), size)) for i in members]
        for (i, peer), seed in self.seeds.items():
            if i in members:  # own seeds were added, pair seeds by the lower index and taken off by the higher
                terms.append((1 if peer < i else -1, words(keystream(seed, lane, length), size)))
        for sign, values in terms:
            total = [(a + sign * b) % 256**size for a, b in zip(total, values, strict=True)]
        return total


def check(vectors: Fields) -> str:
    """What was checked. Raises AssertionError, InvalidSignature or ValueError for vectors that do not hold."""
    assert vectors["version"] == 1
    checker = Checker(vectors)
    checker.check_epoch()
    checker.check_masked()
    checker.check_votes()
    checker.check_openings()
    checker.check_sums()
    return f"{len(checker.fields)} messages, {checker.signatures} signatures, {len(checker.seeds)} seeds"


if __name__ == "__main__":
    print(check(json.loads(Path(sys.argv[1]).read_text())))
