"""Who takes part when, where the noise holds only if a site keeps away for some rounds after its own.

Separation is counted in indices of releases. Every begun round has one, an aborted one as well, so that whatever became
of the rounds in between, two of a site's releases are as far apart as their noise needs.
"""

from collections.abc import Sequence

import numpy as np

from wardround.orders import SiteId, derive_seed

__all__ = ["spaced_cohort", "too_soon"]


def spaced_cohort(sites: Sequence[SiteId], size: int, seed: int, index: int, separation: int) -> tuple[SiteId, ...]:
    """The `size` of `sites` that take part in the release of this index, in the order of `sites`.

    The sites are shuffled once by the plan's seed and take turns: two indices of a site are at least
    ⌊sites / size⌋ >= `separation` apart, and of as many indices as there are sites each has `size`. Every index of a
    run must be asked with the same sites. The draw is public: amplification by sampling is never claimed on it.
    ValueError where there are fewer than `size` x `separation` sites.
    """
    if size < 1 or separation < 1 or index < 0:
        raise ValueError(f"expected size and separation >= 1 and index >= 0, got {size}, {separation} and {index}")
    if len(set(sites)) != len(sites):
        raise ValueError("expected every site once")
    if size * separation > len(sites):
        raise ValueError(
            f"expected at least {size} x {separation} sites, so that {size} can take part in each round and a site in "
            f"one of {separation}, got {len(sites)}; take fewer bands or a smaller cohort"
        )
    generator = np.random.Generator(np.random.Philox(key=derive_seed(seed, "cohort", "spaced")))
    turns = generator.permutation(len(sites))
    chosen = turns[(index * size + np.arange(size)) % len(sites)]
    return tuple(sites[at] for at in np.sort(chosen))


def too_soon(last: int | None, now: int, separation: int) -> bool:
    """Whether a site that last took part at index `last` (None: never) must not at index `now`.

    An index that is not above `last` is too soon as well: a site's own check, whatever the server says.
    """
    if separation < 1:
        raise ValueError(f"expected a separation of at least 1, got {separation}")
    return last is not None and now - last < separation
