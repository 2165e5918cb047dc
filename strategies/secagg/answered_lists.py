"""The lists of survivors that a member has answered over one model: what a second sum may differ in.

Two sums over the same model that differ in one member give that member's update. Without differential privacy a member
therefore answers a second list only where, in each group, it is the same, empty, or differs in k + 2 members (k:
updates that one who looks may know), and never a third. This stops accidents, such as a failure that is claimed and
followed by a round with one member fewer; a server that changes one bit of the model has another model, and only noise
bounds that.

Source: So et al. 2021, "Securing Secure Aggregation: Mitigating Multi-Round Privacy Leakage in Federated Learning"
(arXiv 2106.03328): what sums of several rounds tell together.
"""

import json
from collections.abc import Mapping, Sequence

from wardround.strategies.secagg.cohort import Cohort
from wardround.strategies.secagg.messages import Cause, Descriptor, digest_of
from wardround.strategies.secagg.phases import RefusedError
from wardround.strategies.secagg.sealed_state import SealedState

__all__ = ["check_redo", "record_answer"]

_MOST = 2


def check_redo(state: SealedState, cohort: Cohort, descriptor: Descriptor, lists: Mapping[int, Sequence[int]]) -> None:
    """Raises RefusedError unless survivors by group in `lists` may be answered after those answered over this model."""
    before = _answered(state, descriptor)
    before.pop(digest_of(descriptor).hex(), None)
    if len(before) >= _MOST:
        raise RefusedError(Cause.POLICY, None, f"expected at most {_MOST} sums over one model, got a request for more")
    for answered in before.values():
        for group, survivors in lists.items():
            new, old = set(_names(cohort, survivors)), set(answered.get(str(group), ()))
            least = cohort.known(group) + 2
            if new and new != old and len(new ^ old) < least:
                raise RefusedError(
                    Cause.POLICY,
                    None,
                    f"expected the survivors of group {group} answered before over this model, none, or {least} "
                    f"changes, got {len(new ^ old)}: two such sums would tell single updates",
                )


def record_answer(
    state: SealedState, cohort: Cohort, descriptor: Descriptor, lists: Mapping[int, Sequence[int]]
) -> None:
    """Keep that these survivors were answered; durable on return, and the same when it is done twice."""
    answered = _answered(state, descriptor)
    answered[digest_of(descriptor).hex()] = {str(g): _names(cohort, survivors) for g, survivors in lists.items()}
    state.put(_key(descriptor), [json.dumps(answered).encode()])


def _answered(state: SealedState, descriptor: Descriptor) -> dict[str, dict[str, list[str]]]:
    """By round's hash and group the names of survivors; names, since indices are of one epoch."""
    stored = state.get(_key(descriptor))
    answered: dict[str, dict[str, list[str]]] = json.loads(stored[0]) if stored else {}
    return answered


def _names(cohort: Cohort, survivors: Sequence[int]) -> list[str]:
    return [cohort.names[member] for member in survivors]


def _key(descriptor: Descriptor) -> str:
    return f"secagg/{descriptor.run}/answered/{descriptor.task.name}/{descriptor.model.hex()}"
