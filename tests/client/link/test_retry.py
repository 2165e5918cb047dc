"""When the agent comes again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.client.link.retry import retry_delay_s
from wardround.link.limits import Limits

LIMITS = Limits(first_retry_s=0.5, most_retry_s=60.0)


def test_the_bound_doubles_up_to_the_most() -> None:
    delays = [retry_delay_s(failures, lambda: 1 - 1e-12, LIMITS) for failures in range(1, 10)]
    assert delays == pytest.approx([0.5, 1, 2, 4, 8, 16, 32, 60, 60])


@given(st.integers(1, 10**9), st.floats(0, 1, exclude_max=True))
def test_a_delay_is_in_the_upper_half_of_its_bound(failures: int, drawn: float) -> None:
    most = min(60.0, 0.5 * 2.0 ** min(failures - 1, 40))
    assert most / 2 <= retry_delay_s(failures, lambda: drawn, LIMITS) <= most


def test_sites_do_not_come_back_in_the_same_moment() -> None:
    assert retry_delay_s(5, lambda: 0.1, LIMITS) != retry_delay_s(5, lambda: 0.2, LIMITS)


def test_there_is_no_delay_before_a_failure() -> None:
    with pytest.raises(ValueError, match="at least one failure"):
        retry_delay_s(0, lambda: 0.0, LIMITS)
