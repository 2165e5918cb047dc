"""Pins: only the administrator or the pinned key itself moves one, and every move is logged."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import LocalError, RemoteError
from wardround.file_store import FileStore
from wardround.orders import SiteId
from wardround.pins import ApprovedKeys, PinChange, Pins, rotation_statement
from wardround.signing_key import SigningKey, fingerprint_of
from wardround.state_store import MemoryStore

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
OLD, NEW, THIRD = (SigningKey(bytes((i,)) * 32) for i in (1, 2, 3))
F_OLD, F_NEW, F_THIRD = (fingerprint_of(key.public) for key in (OLD, NEW, THIRD))


def pinned(store: MemoryStore | None = None) -> Pins:
    pins = Pins(store or MemoryStore())
    pins.accept("Malmö", F_OLD, by="Dr. Berg", now=NOW)
    return pins


def test_only_the_pinned_key_of_a_name_passes() -> None:
    pins = pinned()
    pins.check("Malmö", OLD.public)
    with pytest.raises(
        RemoteError, match=f"Malmö: expected the pinned key {F_OLD}, got {F_NEW}; take it for an attack"
    ):
        pins.check("Malmö", NEW.public)
    with pytest.raises(RemoteError, match=f"Lund: expected a member whose key is pinned here, .* key {F_OLD}"):
        pins.check("Lund", OLD.public)


def test_a_statement_of_the_pinned_key_moves_the_pin_and_is_logged() -> None:
    pins = pinned()
    pins.rotate(rotation_statement("Malmö", OLD, NEW), now=NOW)
    pins.check("Malmö", NEW.public)
    with pytest.raises(RemoteError):
        pins.check("Malmö", OLD.public)
    assert pins.log() == (
        PinChange(time="2026-01-05T12:00:00+00:00", change="accepted", name="Malmö", new=F_OLD, by="Dr. Berg"),
        PinChange(
            time="2026-01-05T12:00:00+00:00", change="rotated", name="Malmö", old=F_OLD, new=F_NEW, by="its old key"
        ),
    )


def altered(statement: bytes, at: int) -> bytes:
    changed = bytearray(statement)
    changed[at] ^= 1
    return bytes(changed)


@pytest.mark.parametrize(
    ("statement", "match"),
    [
        pytest.param(lambda: rotation_statement("Malmö", THIRD, NEW), "rotation of the pinned key", id="another key"),
        pytest.param(lambda: rotation_statement("Lund", OLD, NEW), "rotation of the pinned key", id="another name"),
        pytest.param(
            lambda: altered(rotation_statement("Malmö", OLD, NEW), -128),
            "old key: expected a valid",
            id="old signature",
        ),
        pytest.param(
            lambda: altered(rotation_statement("Malmö", OLD, NEW), -64), "new key: expected", id="new signature"
        ),
        pytest.param(
            lambda: rotation_statement("Malmö", OLD, NEW).replace(NEW.public, THIRD.public), "valid", id="new key"
        ),
        pytest.param(lambda: rotation_statement("Malmö", OLD, NEW)[:-1], "a rotation statement", id="cut"),
        pytest.param(lambda: rotation_statement("Malmö", OLD, NEW) + b"\0", "a rotation statement", id="longer"),
        pytest.param(lambda: b"", "a rotation statement", id="nothing"),
        pytest.param(lambda: rotation_statement("Malmö", OLD, OLD), "which it has had", id="the same key"),
    ],
)
def test_any_other_statement_moves_nothing(statement: Callable[[], bytes], match: str) -> None:
    store = MemoryStore()
    pins = pinned(store)
    before = store.get("identity/pins")
    with pytest.raises(RemoteError, match=match):
        pins.rotate(statement(), now=NOW)
    assert store.get("identity/pins") == before


@given(st.binary(max_size=400))
def test_other_bytes_are_no_statement(data: bytes) -> None:
    for statement in (data, b"WRR1" + data, b"WRR1\1\0a" + bytes(192), b"WRR1\1\0\n" + bytes(192)):
        with pytest.raises(RemoteError):
            pinned().rotate(statement, now=NOW)


def test_a_statement_is_not_played_again_after_the_administrator_took_the_new_key_back() -> None:
    pins = pinned()
    stolen = rotation_statement("Malmö", OLD, NEW)
    pins.rotate(stolen, now=NOW)
    with pytest.raises(LocalError, match="which it has had; make another key"):
        pins.accept("Malmö", F_OLD, by="Dr. Berg", now=NOW, instead_of=F_NEW)
    pins.accept("Malmö", F_THIRD, by="Dr. Berg", now=NOW, instead_of=F_NEW)
    with pytest.raises(RemoteError):
        pins.rotate(stolen, now=NOW)
    assert pins.pinned() == {"Malmö": F_THIRD}


def test_a_lost_key_is_replaced_only_by_who_knows_the_pin() -> None:
    pins = pinned()
    for wrong in (None, F_NEW):
        with pytest.raises(LocalError, match=f"expected to replace {F_OLD}"):
            pins.accept("Malmö", F_NEW, by="Dr. Berg", now=NOW, instead_of=wrong)
    with pytest.raises(LocalError, match="expected to replace no pin"):
        pins.accept("Lund", F_NEW, by="Dr. Berg", now=NOW, instead_of=F_OLD)
    pins.accept("Malmö", F_NEW, by="Dr. Berg", now=NOW, instead_of=F_OLD)
    assert [one.change for one in pins.log()] == ["accepted", "accepted"]
    pins.accept("Malmö", F_NEW, by="Dr. Berg", now=NOW)
    assert len(pins.log()) == 2


def test_a_key_is_of_one_name() -> None:
    pins = pinned()
    with pytest.raises(LocalError, match="Lund: expected a key of its own, got the pinned key of Malmö"):
        pins.accept("Lund", F_OLD, by="Dr. Berg", now=NOW)
    pins.accept("Lund", F_NEW, by="Dr. Berg", now=NOW)
    with pytest.raises(RemoteError, match="expected a key of its own"):
        pins.rotate(rotation_statement("Lund", NEW, OLD), now=NOW)


def test_a_removed_member_is_refused_and_the_log_stays() -> None:
    pins = pinned()
    pins.remove("Malmö", by="Dr. Berg", now=NOW)
    with pytest.raises(RemoteError, match="expected a member whose key is pinned here"):
        pins.check("Malmö", OLD.public)
    with pytest.raises(LocalError, match="expected a pinned name"):
        pins.remove("Malmö", by="Dr. Berg", now=NOW)
    assert [one.change for one in pins.log()] == ["accepted", "removed"]


@pytest.mark.parametrize(
    ("name", "fingerprint", "by"),
    [("", F_NEW, "b"), ("a\n", F_NEW, "b"), ("a", F_NEW.upper(), "b"), ("a", F_NEW[:-2], "b"), ("a", "x" * 64, "b")],
)
def test_what_is_no_name_or_fingerprint_is_refused(name: str, fingerprint: str, by: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        Pins(MemoryStore()).accept(name, fingerprint, by=by, now=NOW)


def test_who_and_when_must_be_said() -> None:
    store = MemoryStore()
    pins = pinned(store)
    before = store.get("identity/pins")
    for by in ("", "a\nb"):
        with pytest.raises(LocalError, match="expected who changes the pin"):
            pins.accept("Lund", F_NEW, by=by, now=NOW)
    with pytest.raises(ValueError, match="expected a time with its zone"):
        pins.accept("Lund", F_NEW, by="Dr. Berg", now=NOW.replace(tzinfo=None))
    assert store.get("identity/pins") == before


def test_pins_and_log_outlive_the_process(tmp_path: Path) -> None:
    with FileStore(tmp_path / "state") as store:
        Pins(store).accept("Malmö", F_OLD, by="Dr. Berg", now=NOW)
        Pins(store).rotate(rotation_statement("Malmö", OLD, NEW), now=NOW)
    with FileStore(tmp_path / "state") as store:
        pins = Pins(store)
        assert pins.pinned() == {"Malmö": F_NEW}
        assert [one.change for one in pins.log()] == ["accepted", "rotated"]


@pytest.mark.parametrize(
    "stored",
    [b"", b"{}", b"[]", b'{"v": 2, "pins": {}, "log": []}', b'{"v": 1, "pins": {"a": "00"}, "log": []}',
     b'{"v": 1, "pins": {}, "log": [[1]]}', b'{"v": 1, "pins": [], "log": []}'],
)  # fmt: skip
def test_stored_pins_that_are_not_whole_are_refused(stored: bytes) -> None:
    store = MemoryStore()
    store.put("identity/pins", stored)
    with pytest.raises(LocalError, match="pins: expected version 1"):
        Pins(store)


# -- a list of approved keys ---------------------------------------------------------------------------------


def test_approved_keys_are_those_of_the_digest_in_the_plan() -> None:
    keys = ApprovedKeys({"Malmö": F_OLD, "Lund": F_NEW})
    keys.check("Malmö", OLD.public)
    for name, key in (("Malmö", NEW), ("Basel", OLD), ("Basel", THIRD)):
        with pytest.raises(RemoteError, match="by the plan's list of keys"):
            keys.check(name, key.public)
    assert keys.digest == ApprovedKeys({"Lund": F_NEW, "Malmö": F_OLD}).digest
    others = [{"Malmö": F_OLD}, {"Malmö": F_NEW, "Lund": F_OLD}, {"Malmö": F_OLD, "Lun": F_NEW}, {}]
    assert len({keys.digest, *(ApprovedKeys(other).digest for other in others)}) == 5


@pytest.mark.parametrize("bad", [{"a": F_OLD, "b": F_OLD}, {"a": "x"}, {"": F_OLD}])
def test_a_list_with_a_key_twice_or_bad_names_is_refused(bad: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="expected"):
        ApprovedKeys(bad)


def test_names_are_sites() -> None:
    pins = pinned()
    assert list(pins.pinned()) == [SiteId("Malmö")]
