"""What a plan's protection does, in words: what the server learns, what that rests on, who may be bad."""

from collections.abc import Iterator

from wardround.asked import TRIES
from wardround.plan import Plan
from wardround.plan_privacy import Disclosure, Mechanism
from wardround.plan_robust import AUTO, OFF
from wardround.plan_sections import Standardize, Weighting
from wardround.plan_simulation import Cryptography

__all__ = ["ASSUMED_SIZE", "facts"]

ASSUMED_SIZE = 1_000_000
"""Parameters that costs are told for where the model's are not known."""


def facts(plan: Plan, size: int | None) -> Iterator[tuple[str, str]]:
    """(what, in words) of a plan's protection; `size`: parameters of its model, where that is known."""
    if plan.protection.on:
        from wardround.strategies.secagg.plan_terms import parameters_of

        if plan.simulation.cryptography is Cryptography.ACCOUNTING:
            yield (
                "simulation",
                "no cryptography runs in it (simulation.cryptography): what follows is of a deployed plan",
            )
        for line in parameters_of(plan).explain(size or ASSUMED_SIZE).splitlines():
            what, said = line[:12].strip(), line[12:]
            if what == "noise" and plan.privacy.mechanism is not Mechanism.SKELLAM:
                continue
            if what == "costs" and size is None:
                said += "; the size of this plan's model is not known here"
            yield what, _malicious(plan) if what == "malicious" else said
        yield (
            "rests on",
            "keys and approval: each site accepts the others' signing keys itself, so that the server can invent no "
            "member, and approves this plan's digest; not stopped is a server that sends all the same malicious model",
        )
    else:
        noise = " Each carries the noise that its site added." if plan.privacy.per_example else ""
        yield "server", f'sees every update of every site in the clear (protection.mode = "off").{noise}'
        yield "rests on", f"the server alone: nobody needs to collude. {_trust(plan)}"
        yield "drop-outs", _drop_outs(plan)
        yield "malicious", _malicious(plan)
    yield "besides", _besides(plan)
    if said := _evaluations(plan):
        yield "evaluation", said


def _trust(plan: Plan) -> str:
    if plan.privacy.per_client:
        return "It is trusted to add the noise and to show nobody the updates."
    if plan.privacy.per_example:
        return "Differential privacy bounds what it learns of single rows, whatever it does."
    return "An update can give away much of the rows behind it."


def _drop_outs(plan: Plan) -> str:
    from wardround.strategies.composition import least_replies

    if plan.privacy.per_client:
        return f"any of the {plan.cohort_size} sites of a round: what is missing counts as zero"
    return f"a round needs {least_replies(plan)} updates of {plan.cohort_size}"


def _malicious(plan: Plan) -> str:
    robust, masked = plan.robust, plan.protection.on
    if robust.rule in (OFF, "mean"):
        clip = plan.privacy.clip_norm if plan.privacy.per_client else plan.clipping.clip_norm
        held = "as far as it likes"
        if clip is not None and not masked:
            held = f"by its share of {clip:g} in length"
        return f"none is tolerated: a mean takes everybody's word, and one that lies moves it {held}"
    rule = "a rule that trials choose" if robust.rule == AUTO else "+".join((*robust.pre, robust.rule))
    if not masked:
        return f"{robust.num_byzantine} of {plan.cohort_size} sites in a round ({rule}), no more"
    return (
        f"{robust.num_byzantine} of the {plan.contributions} group means may be bad ({rule}), no more: that is one "
        "malicious site per bad group, however many sites there are; what a client sends is not checked"
    )


def _besides(plan: Plan) -> str:
    of = "each group" if plan.protection.on else "each site"
    told, masked = ["who took part and who did not"], plan.protection.on
    counted = not plan.privacy.on and not (masked and plan.task.flower_app is not None)
    if counted or (plan.privacy.per_example and not masked):
        told.append(f"how many training rows {of} has")
    if masked and plan.weighting is Weighting.CAPPED:
        told.append(f"the weight of {of}")
    if counted:
        told.append(f"the summed training loss of {of}")
    if plan.data.standardize is Standardize.FEDERATED:
        noisy = ", with noise" if plan.privacy.on else ""
        told.append(f"sums of each number column and of its squares of {of}, once{noisy}")
    if _evaluations(plan):
        outside = ", outside the claim" if plan.privacy.on else ""
        told.append(f"counts and scores on the held-out rows of {of}{outside}")
    return f"the server learns {', '.join(told)}"


def _evaluations(plan: Plan) -> str:
    """How often a site evaluates a model, and what that tells; empty where it never does."""
    if plan.privacy.on and plan.privacy.evaluation is Disclosure.OFF:
        return ""
    every, asked = plan.evaluation.every if plan.data.validation else 0, list[str]()
    if every:
        models = -(-plan.rounds // every) + (plan.task.flower_app is not None)  # the last is always judged
        asked.append(f"{models} times on validation rows")
    asked += ["once on test rows"] if plan.data.test else []
    if not asked:
        return ""
    of, summed = ("each group", "sums of ") if plan.protection.on else ("each site", "")
    return (
        f"{' and '.join(asked)}, and each time for up to {TRIES} models, since a server that was "
        "restarted asks again. It can make models up that read single columns: where the held-out rows of "
        f"{of} are few, {summed}their counts and scores tell about single rows"
    )
