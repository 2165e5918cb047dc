"""Orders on the wire, and seeds."""

import hashlib
import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import RemoteError
from wardround.link.limits import Limits
from wardround.orders import MAX_ORDER_BYTES, Order, OrderKind, Split, Statistics, derive_seed, digest

ORDER = Order(run_id="r", plan_digest="p", kind=OrderKind.FIT, round=2)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.builds(
        Order,
        run_id=TEXT,
        plan_digest=TEXT,
        kind=st.sampled_from(OrderKind),
        round=st.integers(0, 2**63 - 1),
        attempt=st.integers(0, 2**63 - 1),
        split=st.sampled_from(Split),
        model_digest=TEXT,
        statistics=st.none()
        | st.lists(st.tuples(FINITE, st.floats(1e-300, 1e300)), max_size=4).map(
            lambda pairs: Statistics(mean=tuple(m for m, _ in pairs), std=tuple(s for _, s in pairs))
        ),
    )
)
def test_an_order_survives_the_wire(order: Order) -> None:
    assert Order.decode(order.encode()) == order
    assert Order.decode(order.encode()).encode() == order.encode()


def test_the_wire_form_is_canonical() -> None:
    assert ORDER.encode() == (
        b'{"attempt":0,"kind":"fit","model_digest":"","plan_digest":"p","round":2,"run_id":"r","split":"train","v":1}'
    )


GOOD: dict[str, Any] = json.loads(ORDER.encode())


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"v": None},
        {"round": -1},
        {"round": 1.0},
        {"round": True},
        {"round": 2**63},
        {"attempt": -1},
        {"kind": "unpickle"},
        {"split": "all"},
        {"run_id": 3},
        {"run_id": "\ud800"},
        {"surplus": 1},
        {"statistics": {"mean": [0.0], "std": []}},
        {"statistics": {"mean": [0.0], "std": [0.0]}},
        {"statistics": {"mean": [0.0], "std": [math.inf]}},
        {"statistics": {"mean": [math.nan], "std": [1.0]}},
        {"statistics": {"mean": [10**400], "std": [1.0]}},
        {"statistics": {"mean": 3, "std": [1.0]}},
        {"statistics": []},
    ],
)
def test_an_order_that_breaks_the_protocol_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(RemoteError, match=r"^order: expected"):
        Order.decode(json.dumps(GOOD | change).encode())


@pytest.mark.parametrize("missing", ["v", "run_id", "plan_digest", "kind", "round"])
def test_a_missing_field_is_refused(missing: str) -> None:
    with pytest.raises(RemoteError):
        Order.decode(json.dumps({name: value for name, value in GOOD.items() if name != missing}).encode())


@given(st.binary(max_size=100) | st.sampled_from([b"[" * 9000, b"3", b"[]", b'{"v":1}', b"9" * 5000]))
def test_other_bytes_are_a_remote_error(data: bytes) -> None:
    with pytest.raises(RemoteError):
        Order.decode(data)


def test_a_huge_order_is_refused_unread() -> None:
    with pytest.raises(RemoteError, match="at most 4194304 bytes"):
        Order.decode(b" " * (4 << 20) + ORDER.encode())


def test_an_order_has_room_for_the_statistics_of_many_columns_and_few_of_them_are_remembered() -> None:
    assert Limits().most_order_bytes == MAX_ORDER_BYTES  # a link carries what its ends read
    values = tuple(-1.2345678901234567e-300 - number * 1e-303 for number in range(30_000))
    orders = [
        replace(ORDER, round=number, statistics=Statistics(mean=values, std=tuple(-value for value in values)))
        for number in range(1, 4)
    ]
    assert len(orders[0].encode()) > 1 << 20
    found = [Order.decode(one.encode()) for one in orders]
    assert found == orders
    again = [Order.decode(one.encode()) for one in reversed(orders)]
    assert [new is old for new, old in zip(again, reversed(found), strict=True)] == [True, False, False]


@given(
    st.integers(0, 2**63 - 1), st.lists(st.integers() | st.text(st.characters(exclude_characters="\x1f")), max_size=4)
)
def test_a_seed_is_of_63_bits_and_its_purpose_alone(seed: int, parts: list[int | str]) -> None:
    found = derive_seed(seed, *parts)
    assert 0 <= found < 2**63
    assert derive_seed(seed, *parts) == found
    assert derive_seed(seed, *parts, "more") != found


def test_seeds_are_pinned() -> None:
    """A run that is resumed by a later version has to draw the same numbers."""
    assert derive_seed(0, "partition") == int.from_bytes(hashlib.sha256(b"0\x1fpartition").digest()[:8], "little") // 2
    assert derive_seed(1, "a", 2) != derive_seed(1, "a2") != derive_seed(1, "a", "", 2)


def test_a_digest() -> None:
    assert digest(b"abc") == hashlib.sha256(b"abc").hexdigest()
