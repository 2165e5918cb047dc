"""What a plan's [protection] comes to: the parameters of secure aggregation, and how updates become integers."""

from functools import lru_cache
from typing import TYPE_CHECKING, cast

from wardround.decoding import PlanError
from wardround.plan import Plan
from wardround.plan_privacy import Mechanism
from wardround.plan_protection import TableChoice
from wardround.strategies.he.he_plan import HEPlan
from wardround.strategies.secagg.parameter_choice import choose
from wardround.strategies.secagg.parameters import InfeasibleError, Parameters, Tables

if TYPE_CHECKING:
    from wardround.strategies.secagg.encoding import Encoding

__all__ = ["encoding_of", "exact_terms", "he_plan_of", "parameters_of"]

WORD_BITS = 32
_MOST_BITS = 24
"""float32 tells no more apart."""
_IN_A_SLOT = 2
"""Values that share a slot of a plaintext: with fewer an update takes twice the bytes, with more it is coarser."""
_LEAST_STEPS = 64
"""Integers up to the largest value of an update of weight 1; with fewer, rounding drowns what small sites give."""


def parameters_of(plan: Plan) -> Parameters:
    """The parameters of a plan with protection, derived ones filled in; cheap when asked again.

    Raises PlanError for what is not possible together, with the nearest choices that are.
    """
    ours = plan.protection
    each_round = ours.tables is TableChoice.EACH_ROUND
    try:
        return _chosen(
            plan.simulation.sites - len(plan.cohort.without),
            (0 if ours.homomorphic else 1) if ours.colluding is None else ours.colluding,
            ours.dropout,
            ours.groups,
            ours.min_roster,
            ours.min_survivors,
            Tables(ours.tables.value),
            plan.rounds if each_round else 0,
            ours.homomorphic,
        )
    except InfeasibleError as error:
        raise PlanError(f"protection.{error.key}", f"what is possible together ({error})") from None
    except ValueError as error:
        name, _, expected = str(error).partition(": expected ")
        path = {"clients": "simulation.sites", "regrouped_rounds": "rounds"}.get(name, f"protection.{name}")
        raise PlanError(path, expected) from None


@lru_cache(maxsize=64)
def _chosen(
    clients: int,
    colluding: int,
    dropout: float,
    groups: int,
    min_roster: int | None,
    min_survivors: int | None,
    tables: Tables,
    regrouped_rounds: int,
    homomorphic: bool,
) -> Parameters:
    return choose(
        clients=clients,
        colluding=colluding,
        dropout=dropout,
        groups=groups,
        min_roster=min_roster,
        min_survivors=min_survivors,
        tables=tables,
        regrouped_rounds=regrouped_rounds,
        homomorphic=homomorphic,
    )


def he_plan_of(plan: Plan) -> HEPlan:
    """The parameters of BFV. Raises PlanError for more sites than any proof holds for."""
    try:
        return HEPlan(members=parameters_of(plan).group_size)
    except ValueError as error:
        raise PlanError("simulation.sites", f"so few that sums are proven exact under bfv ({error})") from None


def encoding_of(plan: Plan, size: int, *, seed: bytes) -> "Encoding":
    """How the `size` parameters of an update become words, the same at every member and at the server.

    `seed`: 32 public bytes that are fixed before the updates; they turn the rotation where noise needs one. Raises
    PlanError for a plan whose sums or noise the ring of 32 bits cannot hold.
    """
    if plan.privacy.mechanism is Mechanism.SKELLAM:
        return _noised(plan, size, seed)
    from wardround.strategies.secagg.encoding import Encoding

    bits, weight, scale = exact_terms(plan)
    return Encoding(
        size=size,
        scale=scale,
        value_bits=bits,
        members=parameters_of(plan).group_size,
        word_bits=WORD_BITS,
        max_weight=weight,
        clip_norm=plan.clipping.clip_norm,
    )


def exact_terms(plan: Plan) -> tuple[int, int, float]:
    """Of sums without noise: bits of a value, largest weight, and steps in a unit of an update of weight 1.

    No value is clamped at these. Raises PlanError where the ring is too narrow, and where no clip bounds an update or
    it cannot be encoded.
    """
    from wardround.strategies.privacy.unit_clip import check_clip

    members, clip = parameters_of(plan).group_size, plan.clipping.clip_norm
    room, given = WORD_BITS - (members - 1).bit_length(), plan.protection.value_bits
    most, holds = min(_MOST_BITS, room), f"words have {WORD_BITS} bits"
    if plan.protection.homomorphic:
        he = he_plan_of(plan)
        room, most = min(room, he.most_bits(1)), min(most, he.most_bits(_IN_A_SLOT))
        holds = f"a slot of a plaintext has {he.plain_modulus.bit_length()} bits"
    weight = plan.cohort.weight_cap or 1
    if clip is None:
        needed = "a number where updates are hidden, since it fixes how values become integers"
        raise PlanError("clipping.clip_norm", needed)
    try:
        check_clip(clip)
    except ValueError as error:
        raise PlanError("clipping.clip_norm", f"a norm that can be encoded ({error})", clip) from None
    if given is not None and given > room:
        why = f"or the ring is too narrow: {holds}, and {members} sites are added up"
        raise PlanError("protection.value_bits", f"at most {room}, {why}", given)
    bits = given or most
    largest = (1 << (bits - 1)) - 1
    if largest < _LEAST_STEPS:
        few = f"at least {_LEAST_STEPS.bit_length() + 1}, since fewer round small values away"
        raise PlanError("protection.value_bits", few, bits)
    if largest < _LEAST_STEPS * weight:
        why = f"or the ring is too narrow: a value has {bits} bits, its weight included"
        raise PlanError("cohort.weight_cap", f"at most {largest // _LEAST_STEPS}, {why}", weight)
    return bits, weight, largest / (clip * weight)


def _noised(plan: Plan, size: int, seed: bytes) -> "Encoding":
    from wardround.strategies.privacy.skellam import SkellamMechanism
    from wardround.strategies.privacy.terms import client_terms
    from wardround.strategies.secagg.encoding import Encoding
    from wardround.strategies.secagg.rotation import Rotation
    from wardround.strategies.secagg.skellam_noise import LARGEST_VARIANCE, SMALLEST_VARIANCE

    mechanism = cast(SkellamMechanism, client_terms(plan, size).skellam)  # there where the size is known
    if not SMALLEST_VARIANCE <= (variance := mechanism.client_variance) <= LARGEST_VARIANCE:
        what = f"noise of a client with a variance of {SMALLEST_VARIANCE:.1g} to {LARGEST_VARIANCE:.1g} squared steps"
        raise PlanError("privacy.noise_multiplier", f"{what}, got {variance:.3g} for {size} parameters")
    try:
        return Encoding(
            size=size,
            scale=mechanism.scale,
            value_bits=31,
            members=parameters_of(plan).group_size,
            word_bits=WORD_BITS,
            clip_norm=mechanism.clip_norm,
            rotation=Rotation(size, seed),
            mechanism=mechanism,
        )
    except ValueError as error:
        raise PlanError("privacy.noise_multiplier", f"noise that the ring is wide enough for ({error})") from None
