"""Who takes part in a round."""

from collections.abc import Sequence

import numpy as np

from wardround.orders import SiteId, derive_seed

__all__ = ["draw_cohort"]


def draw_cohort(sites: Sequence[SiteId], size: int, seed: int, *purpose: str | int) -> tuple[SiteId, ...]:
    """`size` of `sites`, uniformly without replacement, in the order of `sites`; the same for the same purpose.

    The draw is public: it follows from the plan's seed. Amplification by sampling is never claimed on it.
    """
    if size >= len(sites):
        return tuple(sites)
    generator = np.random.Generator(np.random.Philox(key=derive_seed(seed, "cohort", *purpose)))
    chosen = np.sort(generator.choice(len(sites), size=size, replace=False, shuffle=False))
    return tuple(sites[index] for index in chosen)
