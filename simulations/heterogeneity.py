"""How the data differ between sites: sizes, labels, inputs. For the report; it looks at rows, as only a simulation may.

Label distance is the total variation from the pooled distribution, ½ Σ |p − q| (0: the same, 1: disjoint); for a
number to predict, over its pooled quartiles. Input distance is the
root mean square over inputs of (site mean − pooled mean) / pooled standard deviation.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from wardround.client.data.site_data import SiteData
from wardround.orders import Split
from wardround.plan import Plan
from wardround.server.runs.site_profiles import Heterogeneity, SiteProfile
from wardround.vector import F32, F64, I64

__all__ = ["describe_sites"]

_MAX_INPUTS = 1000


def describe_sites(plan: Plan, sites: Sequence[SiteData]) -> Heterogeneity:
    """Profiles of `sites`, in order, and of all their rows together; inputs beyond the first 1000 are left out."""
    labels, label = _labels(plan, sites)
    counts = np.array([_count(site, label, len(labels)) for site in sites])
    moments = np.array([_moments(site) for site in sites])
    n, means, variances = counts.sum(axis=1), moments[:, 0], moments[:, 1]
    share = (n / n.sum())[:, None]
    mean = (share * means).sum(axis=0)
    std = np.sqrt((share * (variances + (means - mean) ** 2)).sum(axis=0))
    shift = np.sqrt((((means - mean) / np.where(std > 0, std, 1.0)) ** 2).mean(axis=1))
    distance = np.abs(counts / n[:, None] - counts.sum(axis=0) / n.sum()).sum(axis=1) / 2
    return Heterogeneity(
        labels=labels,
        inputs=_input_names(plan, sites)[:_MAX_INPUTS],
        label_counts=tuple(counts.sum(axis=0).tolist()),
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        sites=tuple(
            SiteProfile(
                site=site.site,
                n=int(n[index]),
                train=len(site.train),
                validation=len(site.validation),
                test=len(site.test),
                label_counts=tuple(counts[index].tolist()),
                label_distance=float(distance[index]),
                mean=tuple(means[index].tolist()),
                std=tuple(np.sqrt(variances[index]).tolist()),
                input_distance=float(shift[index]),
            )
            for index, site in enumerate(sites)
        ),
    )


def _labels(plan: Plan, sites: Sequence[SiteData]) -> tuple[tuple[str, ...], Callable[[I64 | F32], I64]]:
    """Names of the classes, or of quarters of the pooled target values; and which one each target is in."""
    target = plan.data.target
    if target is not None and target.range is not None:
        low, high = target.range
        pooled = np.concatenate([site.split(split).y for site in sites for split in Split])
        edges = np.quantile(pooled, (0.0, 0.25, 0.5, 0.75, 1.0))
        shown = [f"{low + (high - low) * edge:.4g}" for edge in edges]
        names = tuple(f"{a} to {b}" for a, b in pairwise(shown))
        return names, lambda y: np.searchsorted(edges[1:-1], y, side="left").astype(np.int64)
    return () if target is None else target.classes, lambda y: y.astype(np.int64, copy=False)


def _count(site: SiteData, label: Callable[[I64 | F32], I64], labels: int) -> I64:
    found: I64 = sum(
        (np.bincount(label(site.split(split).y), minlength=labels) for split in Split),
        start=np.zeros(labels, dtype=np.int64),
    )
    return found


def _moments(site: SiteData) -> F64:
    """Mean and variance of each input (of an image's mean intensity) over all splits, shape (2, inputs)."""
    x = np.concatenate([site.split(split).x for split in Split]).astype(np.float64)
    flat = x.mean(axis=(1, 2, 3))[:, None] if x.ndim == 4 else x[:, :_MAX_INPUTS]
    return np.stack((flat.mean(axis=0), flat.var(axis=0)))


def _input_names(plan: Plan, sites: Sequence[SiteData]) -> tuple[str, ...]:
    x = sites[0].train.x
    if x.ndim == 4:
        return ("intensity",)
    names = [
        f"{column.name}: {category}" if category else column.name
        for column in plan.data.columns
        for category in column.categories or ("",)
    ]
    return tuple(names) or tuple(f"input {index}" for index in range(x.shape[1]))
