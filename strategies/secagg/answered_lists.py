"""The survivors that a member has answered over one model: over one model a group has one sum.

Two sums over the same model that differ in one member give that member's update, and so do three that differ pairwise
in many: {A, v} + {B, v} − {A, B} = 2v. Without differential privacy a member therefore answers, over one model, one set
of survivors of each group: the same again as often as asked, an empty one always, another only where its administrator
releases it. (To count two sets that differ in many, and no third, does not do: three lists may each have a quorum
while no honest member answers all three.)

Two quorums of the same sites share an honest member, since 2t > L + c. So the rule holds for the whole run where all of
its rosters have the same sites, as they do unless a plan sets `min_roster`; of two rosters of other sites the quorums
may have nobody in common, and then it is each member's own. It stops accidents, such as a failure that is claimed and
followed by a round with one member fewer; a server that changes one bit of the model has another model, and only noise
bounds that.

Source: So et al. 2021, "Securing Secure Aggregation: Mitigating Multi-Round Privacy Leakage in Federated Learning"
(arXiv 2106.03328): what sums of several rounds tell together.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from wardround.strategies.secagg.cohort import Cohort
from wardround.strategies.secagg.messages import Cause, Descriptor, Task
from wardround.strategies.secagg.phases import RefusedError
from wardround.strategies.secagg.sealed_state import SealedState

__all__ = ["Release", "check_redo", "names_of", "record_answer", "release"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Another list over a model, whatever its survivors: for the log. `unspent`: how many there are now."""

    run: str
    task: Task
    model: bytes
    unspent: int
    at: datetime


@dataclass(slots=True)
class _Answered:
    """Over one model: by group its sets of survivors, as names, since indices are of one epoch; unspent releases."""

    sets: dict[str, list[list[str]]]
    released: int


def check_redo(state: SealedState, cohort: Cohort, descriptor: Descriptor, lists: Mapping[int, Sequence[int]]) -> None:
    """Raises RefusedError unless survivors by group in `lists` may be answered after those answered over this model."""
    answered, new = _read_and_compare(state, cohort, descriptor, lists)
    if (second := sorted(new.keys() & answered.sets.keys(), key=int)) and answered.released < 1:
        raise RefusedError(
            Cause.POLICY,
            None,
            f"expected the survivors of group {second[0]} that were answered before over this model, or none, got "
            "others: two such sums would tell single updates",
        )


def record_answer(
    state: SealedState, cohort: Cohort, descriptor: Descriptor, lists: Mapping[int, Sequence[int]]
) -> None:
    """Keep that these survivors were answered; durable on return, and the same when it is done twice."""
    answered, new = _read_and_compare(state, cohort, descriptor, lists)
    if not new:
        return
    if new.keys() & answered.sets.keys():
        answered.released -= 1
    for group, survivors in new.items():
        answered.sets.setdefault(group, []).append(survivors)
    state.put(_key(descriptor.run, descriptor.task, descriptor.model), [json.dumps(asdict(answered)).encode()])


def release(state: SealedState, run: str, task: Task, model: bytes, now: datetime) -> Release:
    """Let another list be answered over this model, by order of the site's administrator; durable on return."""
    answered = _read(state, _key(run, task, model))
    answered.released += 1
    state.put(_key(run, task, model), [json.dumps(asdict(answered)).encode()])
    return Release(run=run, task=task, model=model, unspent=answered.released, at=now)


def names_of(cohort: Cohort, survivors: Sequence[int]) -> list[str]:
    """The names of members: what survives an epoch, as their indices do not."""
    return [cohort.names[member] for member in survivors]


def _read_and_compare(
    state: SealedState, cohort: Cohort, descriptor: Descriptor, lists: Mapping[int, Sequence[int]]
) -> tuple[_Answered, dict[str, list[str]]]:
    """What was answered over this model, and the survivors, not none, by group that were not."""
    answered = _read(state, _key(descriptor.run, descriptor.task, descriptor.model))
    named = {str(group): sorted(names_of(cohort, survivors)) for group, survivors in lists.items()}
    return answered, {group: one for group, one in named.items() if one and one not in answered.sets.get(group, ())}


def _read(state: SealedState, key: str) -> _Answered:
    stored = state.get(key)
    return _Answered(**json.loads(stored[0])) if stored else _Answered({}, 0)


def _key(run: str, task: Task, model: bytes) -> str:
    return f"secagg/{run}/answered/{task.name}/{model.hex()}"
