"""What an epoch would give its members, made in one place for a simulation of very many of them."""

from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import combinations

from wardround.strategies.secagg import key_agreement
from wardround.strategies.secagg.client_epoch import Agreement
from wardround.strategies.secagg.cohort import Cohort, cohort_of, digest_of_parameters, draw_groups
from wardround.strategies.secagg.messages import Entry, GroupTable, Hello, Roster
from wardround.strategies.secagg.parameters import Parameters

__all__ = ["shared_agreements"]

_NO_DIGEST, _NO_SIGNATURE = bytes(32), bytes(64)


def shared_agreements(
    parameters: Parameters,
    run: str,
    epoch: int,
    names: Sequence[str],
    keys: Sequence[bytes],
    random: Callable[[int], bytes],
    now: datetime,
    group_table: GroupTable | None = None,
) -> tuple[Cohort, Callable[[int], dict[int, Agreement]]]:
    """The cohort of an epoch, one object for all, and a function that gives a committee's agreements by member.

    `names` ascend in UTF-8, `keys` are their public signing keys in the same order. Where `parameters` have groups and
    no `group_table` is given, one is drawn. X25519 keys are fresh and real; each pair inside a committee is computed
    once in a call, and nothing of it is kept here: a call for the same committee gives the same secrets again.

    For simulations alone. **No roster is checked here**: there are no certificates, signatures, pins or nonces, and one
    process knows every key. So n members cost no n² checks. No deployed member can be talked into it: its agreement
    comes out of a `ClientEpoch`, which checks all of them, and a deployed server has no private key of anybody.
    """
    if len(keys) != len(names):
        raise ValueError(f"keys: expected one for each of {len(names)} names, got {len(keys)}")
    pairs = [key_agreement.generate(random) for _ in names]
    roster = Roster(
        hellos=tuple(
            Hello(
                entry=Entry(
                    run=run,
                    epoch=epoch,
                    authority=_NO_DIGEST,
                    plan=_NO_DIGEST,
                    parameters=digest,
                    name=name,
                    public_key=pair.public,
                    certificate=b"",
                ),
                signature=_NO_SIGNATURE,
            )
            for digest in (digest_of_parameters(parameters),)
            for name, pair in zip(names, pairs, strict=True)
        )
    )
    table = group_table
    if table is None and parameters.groups > 1:
        table = draw_groups(roster, random(key_agreement.DIGEST_BYTES), parameters.groups)
    cohort = cohort_of(roster, keys, table, parameters)

    def agreements(committee: int) -> dict[int, Agreement]:
        secrets: dict[int, dict[int, bytes]] = {member: {} for member in cohort.holders(committee)}
        for one, other in combinations(secrets, 2):
            prk = key_agreement.pair_key(pairs[one].private, pairs[other].public, cohort.roster)
            secrets[one][other] = secrets[other][one] = prk
        return {
            member: Agreement(cohort=cohort, member=member, secrets=known, started=now)
            for member, known in secrets.items()
        }

    return cohort, agreements
