"""What a simulation of secure aggregation has to say of itself, in every output."""

from wardround.plan import Plan
from wardround.plan_simulation import Cryptography
from wardround.strategies.secagg.parameters import MAX_COMMITTEE

__all__ = ["NO_CRYPTOGRAPHY", "caveat"]

NO_CRYPTOGRAPHY = "no cryptography ran"


def caveat(plan: Plan, *, deployed: bool = False) -> str:
    """In what the run of `plan` is not what hospitals run, a sentence without its full stop; empty: in nothing.

    `deployed`: its sites were real.
    """
    if not plan.protection.on:
        return ""
    if plan.simulation.cryptography is Cryptography.ACCOUNTING:
        return f'{NO_CRYPTOGRAPHY}: updates were added up in the clear (simulation.cryptography = "accounting")'
    if plan.cohort_size > MAX_COMMITTEE:
        return "roster checks were left out in this simulation; keys, masks and signatures of rounds were real"
    if plan.protection.sealed_model and not deployed:
        return (
            "the model is not sealed in this simulation, whose members keep no keys: model.safetensors and checkpoints "
            "are in clear (protection.sealed_model)"
        )
    return ""
