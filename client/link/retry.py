"""When to try again after the link broke."""

from collections.abc import Callable

from wardround.link.limits import Limits

__all__ = ["retry_delay_s"]


def retry_delay_s(failures: int, random: Callable[[], float], limits: Limits) -> float:
    """Seconds to wait after so many failures in a row (from 1): a bound that doubles, or less, down to half of it.

    `random()` is from [0, 1). Without it, all sites would come back in the same moment after the server was away.
    """
    if failures < 1:
        raise ValueError(f"expected at least one failure, got {failures}")
    most = min(limits.most_retry_s, limits.first_retry_s * 2.0 ** min(failures - 1, 32))
    return most * (0.5 + 0.5 * random())
