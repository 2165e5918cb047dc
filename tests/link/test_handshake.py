"""The first words: versions, clocks, and what a peer is told that does not fit."""

from datetime import UTC, datetime, timedelta

import pytest

from wardround.errors import RemoteError
from wardround.link import link_pb2 as pb
from wardround.link.errors import Farewell, RefusedError
from wardround.link.handshake import VERSIONS, check_welcome, hello, welcome
from wardround.link.limits import Limits

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LIMITS = Limits()


def answer(versions: list[int], spoken: tuple[int, ...]) -> pb.Welcome | pb.Farewell:
    first = pb.Hello(versions=versions, software="0.0.9")
    return welcome(first, software="2.0.0", now=NOW, calls=[5], versions=spoken)


def test_both_ends_of_this_release_understand_each_other() -> None:
    made = welcome(hello("0.1.0"), software="0.1.0", now=NOW, calls=[5])
    assert isinstance(made, pb.Welcome)
    found = check_welcome(made, now=NOW, limits=LIMITS)
    assert (found.version, list(found.calls)) == (max(VERSIONS), [5])


def test_the_newest_version_in_common_is_chosen() -> None:
    made = answer([1, 2, 3], (2, 3, 4))
    assert isinstance(made, pb.Welcome) and made.version == 3


def test_a_client_that_is_too_old_is_told_which_version_it_needs() -> None:
    made = answer([1], (2, 3))
    assert isinstance(made, pb.Farewell)
    with pytest.raises(
        RefusedError, match=r"expected version 2 of the link or newer.*install wardround 2\.0\.0"
    ) as found:
        check_welcome(made, now=NOW, limits=LIMITS)
    assert found.value.farewell is Farewell.TOO_OLD


def test_a_client_that_is_too_new_comes_again_later() -> None:
    made = answer([5], (2, 3))
    with pytest.raises(RemoteError, match="updated at the server") as found:
        check_welcome(made, now=NOW, limits=LIMITS)
    assert not isinstance(found.value, RefusedError)


@pytest.mark.parametrize("first", [pb.Hello(), pb.Done(id=1), pb.Hello(versions=range(1, 100))])
def test_a_first_word_that_is_no_hello_is_refused(first: pb.Hello | pb.Done) -> None:
    with pytest.raises(RemoteError, match="expected a Hello"):
        welcome(first, software="1", now=NOW, calls=[])


@pytest.mark.parametrize("off", [timedelta(seconds=301), timedelta(seconds=-301), timedelta(days=400)])
def test_clocks_that_are_five_minutes_apart_are_refused(off: timedelta) -> None:
    made = pb.Welcome(version=1, time_ms=int((NOW + off).timestamp() * 1000))
    with pytest.raises(RemoteError, match="set the clock right"):
        check_welcome(made, now=NOW, limits=LIMITS)


def test_clocks_that_are_nearly_five_minutes_apart_are_accepted() -> None:
    made = pb.Welcome(version=1, time_ms=int((NOW + timedelta(seconds=299)).timestamp() * 1000))
    check_welcome(made, now=NOW, limits=LIMITS)


@pytest.mark.parametrize(
    "answer",
    [
        pb.Welcome(version=9),
        pb.Welcome(version=1, time_ms=2**62),
        pb.Welcome(version=1, calls=range(1000)),
        pb.Farewell(reason=77, text="x\x1b[2J"),
        pb.Noted(id=1),
    ],
)
def test_other_answers_are_refused_in_plain_words(answer: pb.Welcome | pb.Farewell | pb.Noted) -> None:
    with pytest.raises(RemoteError) as found:
        check_welcome(answer, now=NOW, limits=LIMITS)
    assert str(found.value).isprintable()
