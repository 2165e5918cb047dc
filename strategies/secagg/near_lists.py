"""Survivors of successive rounds that are nearly the same: what a site's own policy notes, or refuses.

Where a model hardly changes from round to round, sums of survivors that differ in few members tell nearly the updates
of those few. Only differential privacy bounds that; a site may want to see it, or to have no part in it. Rounds of
training are compared with rounds of training, evaluations with evaluations, and a group with that of the same number.

Source: So et al. 2021, "Securing Secure Aggregation: Mitigating Multi-Round Privacy Leakage in Federated Learning"
(arXiv 2106.03328).
"""

import json
from collections.abc import Mapping, Sequence

from wardround.strategies.secagg.answered_lists import names_of
from wardround.strategies.secagg.cohort import Cohort
from wardround.strategies.secagg.messages import Descriptor
from wardround.strategies.secagg.sealed_state import SealedState

__all__ = ["near_lists", "record_last"]


def near_lists(
    state: SealedState, cohort: Cohort, descriptor: Descriptor, lists: Mapping[int, Sequence[int]], least: int
) -> tuple[str, ...]:
    """A line for each group whose survivors are others than in the last answered round, by fewer than `least`."""
    stored = state.get(_key(descriptor))
    last: dict[str, list[str]] = json.loads(stored[0]) if stored else {}
    notes = []
    for group, survivors in lists.items():
        new, old = set(names_of(cohort, survivors)), set(last.get(str(group), ()))
        if new and old and 0 < len(new ^ old) < least:
            notes.append(
                f"epoch {descriptor.epoch}, round {descriptor.round}: expected the survivors of group {group} to be "
                f"those of the last answered round or to differ in {least}, got {len(new ^ old)} changes"
            )
    return tuple(notes)


def record_last(state: SealedState, cohort: Cohort, descriptor: Descriptor, lists: Mapping[int, Sequence[int]]) -> None:
    """Keep that these were the survivors of the last answered round of its task; durable on return."""
    last = {str(group): names_of(cohort, survivors) for group, survivors in lists.items()}
    state.put(_key(descriptor), [json.dumps(last).encode()])


def _key(descriptor: Descriptor) -> str:
    return f"secagg/{descriptor.run}/last-answered/{descriptor.task.name}"
