"""The lists of survivors that a member has answered over one model: what a second sum may differ in.

Two sums over the same model that differ in one member give that member's update. Without differential privacy a member
therefore answers a second list only where, in each group, it is the same, empty, or differs in k + 2 members (k:
updates that one who looks may know), and never a third; otherwise its administrator releases one more. This stops
accidents, such as a failure that is claimed and followed by a round with one member fewer; a server that changes one
bit of the model has another model, and only noise bounds that. The count is each member's own: where a threshold is
low, other members may answer a third list. Dealers that are proven bad count like others, since nothing proves to a
member that they are.

Source: So et al. 2021, "Securing Secure Aggregation: Mitigating Multi-Round Privacy Leakage in Federated Learning"
(arXiv 2106.03328): what sums of several rounds tell together.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from wardround.strategies.secagg.cohort import Cohort
from wardround.strategies.secagg.messages import Cause, Descriptor, Task, digest_of
from wardround.strategies.secagg.phases import RefusedError
from wardround.strategies.secagg.sealed_state import SealedState

__all__ = ["Release", "check_redo", "names_of", "record_answer", "release"]

_MOST = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One more list over a model, whatever it differs in: for the log. `released`: how many there were so far."""

    run: str
    task: Task
    model: bytes
    answered: int
    released: int
    at: datetime


@dataclass(slots=True)
class _Answered:
    """Over one model: by round's hash and group the names of survivors, since indices are of one epoch.

    `beyond`: hashes of the rounds that were answered by a release.
    """

    lists: dict[str, dict[str, list[str]]]
    beyond: list[str]
    released: int


def check_redo(state: SealedState, cohort: Cohort, descriptor: Descriptor, lists: Mapping[int, Sequence[int]]) -> None:
    """Raises RefusedError unless survivors by group in `lists` may be answered after those answered over this model."""
    answered = _read(state, descriptor.run, descriptor.task, descriptor.model)
    reason = _objection(answered, cohort, descriptor, lists)
    if reason and answered.released <= len(answered.beyond):
        raise RefusedError(Cause.POLICY, None, reason)


def record_answer(
    state: SealedState, cohort: Cohort, descriptor: Descriptor, lists: Mapping[int, Sequence[int]]
) -> None:
    """Keep that these survivors were answered; durable on return, and the same when it is done twice."""
    answered = _read(state, descriptor.run, descriptor.task, descriptor.model)
    h = digest_of(descriptor).hex()
    if h in answered.lists:
        return
    if _objection(answered, cohort, descriptor, lists):
        answered.beyond.append(h)
    answered.lists[h] = {str(group): names_of(cohort, survivors) for group, survivors in lists.items()}
    _write(state, descriptor.run, descriptor.task, descriptor.model, answered)


def release(state: SealedState, run: str, task: Task, model: bytes, now: datetime) -> Release:
    """Let one more list be answered over this model, by order of the site's administrator; durable on return."""
    answered = _read(state, run, task, model)
    answered.released += 1
    _write(state, run, task, model, answered)
    return Release(run=run, task=task, model=model, answered=len(answered.lists), released=answered.released, at=now)


def names_of(cohort: Cohort, survivors: Sequence[int]) -> list[str]:
    """The names of members: what survives an epoch, as their indices do not."""
    return [cohort.names[member] for member in survivors]


def _objection(
    answered: _Answered, cohort: Cohort, descriptor: Descriptor, lists: Mapping[int, Sequence[int]]
) -> str | None:
    """Why these lists may not be answered without a release."""
    before = [one for h, one in answered.lists.items() if h != digest_of(descriptor).hex()]
    if len(before) >= _MOST:
        return f"expected at most {_MOST} sums over one model, got a request for more"
    for group, survivors in lists.items():
        new, least = set(names_of(cohort, survivors)), cohort.known(group) + 2
        for one in before:
            old = set(one.get(str(group), ()))
            if new and new != old and len(new ^ old) < least:
                return (
                    f"expected the survivors of group {group} answered before over this model, none, or {least} "
                    f"changes, got {len(new ^ old)}: two such sums would tell single updates"
                )
    return None


def _read(state: SealedState, run: str, task: Task, model: bytes) -> _Answered:
    stored = state.get(_key(run, task, model))
    return _Answered(**json.loads(stored[0])) if stored else _Answered({}, [], 0)


def _write(state: SealedState, run: str, task: Task, model: bytes, answered: _Answered) -> None:
    fields = {"lists": answered.lists, "beyond": answered.beyond, "released": answered.released}
    state.put(_key(run, task, model), [json.dumps(fields).encode()])


def _key(run: str, task: Task, model: bytes) -> str:
    return f"secagg/{run}/answered/{task.name}/{model.hex()}"
