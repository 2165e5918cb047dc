"""What the server could see, and what this run does not claim."""

from collections.abc import Iterator

from wardround.plan import Plan
from wardround.plan_privacy import Disclosure
from wardround.plan_robust import AUTO, OFF
from wardround.plan_sections import Standardize
from wardround.server.report.markup import Section, text
from wardround.server.report.privacy import claimed
from wardround.server.report.run import ReportedRun
from wardround.server.report.wording import count
from wardround.strategies.secagg.plan_terms import parameters_of

__all__ = ["visibility"]


def visibility(run: ReportedRun) -> Section:
    """Plain words, from the plan's sections and from whether it was simulated."""
    body = "<h3>What the server of such a run can see</h3>" + _items(_seen(run))
    body += "<h3>What this run does not claim</h3>" + _items(_not_claimed(run))
    return Section(anchor="limits", title="What the server could see, and what is not claimed", body=body)


def _items(sentences: Iterator[str]) -> str:
    return '<ul class="plain">' + "".join(f"<li>{text(sentence)}</li>" for sentence in sentences) + "</ul>"


def _seen(run: ReportedRun) -> Iterator[str]:
    plan = run.plan
    if plan.protection.on:
        yield from _seen_of_groups(plan)
        return
    yield f"Every hospital's update, in the clear, in every round (protection is off). {_given_away(plan)}"
    if not plan.privacy.on:
        yield "How many training rows each hospital has, its summed training loss, and when it did not answer."
    else:
        rows = "How many training rows each hospital has, and when" if plan.privacy.public_sizes else "When"
        yield f"{rows} it did not answer; no loss on its training rows."
    if _evaluates(plan):
        yield "Counts of how well the model does on each hospital's held-out rows (errors, histograms of scores)."
    yield from _column_sums(plan, "hospital")
    if plan.robust.rule != OFF:
        yield (
            "How long each contribution is and how well it agrees with the others. What follows for a hospital's "
            "reputation is kept with the run."
        )
    if plan.clipping.clip_norm is not None:
        yield f"No update longer than {plan.clipping.clip_norm:g} (L2 norm): the hospital scales it down."


def _column_sums(plan: Plan, of: str) -> Iterator[str]:
    if plan.data.standardize is Standardize.FEDERATED:
        noisy = ", with noise" if plan.privacy.on else ""
        yield (
            f"Sums of each number column and of its squares, per {of}, before the first round (standardisation){noisy}."
        )


def _seen_of_groups(plan: Plan) -> Iterator[str]:
    least, groups = parameters_of(plan).min_survivors, count(plan.protection.groups, "group")
    given_away = (
        f"The noise that hides a {plan.privacy.unit.value} is in it, added before anything left a hospital."
        if plan.privacy.on
        else "It tells of all of them together, and the sums of many rounds tell more than each: only differential "
        "privacy bounds that, and this plan has none."
    )
    yield f"In every round, of {groups}, the sum of the updates of at least {least} hospitals. {given_away}"
    if plan.protection.homomorphic:
        yield "Each hospital's encrypted update, which any one hospital's key opens: none of them may help the server."
    sums = "" if plan.privacy.on else ", training rows and losses"
    counted = "" if plan.privacy.per_client else f"Weights{sums} as sums of the same groups. "
    yield f"{counted}Which hospitals are in a sum, and who did not answer."
    if _evaluates(plan):
        yield "Counts of how well the model does on held-out rows, as sums of groups only."
    yield from _column_sums(plan, "group")
    if plan.robust.rule != OFF:
        yield "How long each group's mean is and how well it agrees with the others."


def _given_away(plan: Plan) -> str:
    if plan.privacy.per_example:
        return f"Each carries the noise that hides a {plan.privacy.unit.value}, added before it left the hospital."
    inverted = "an update can give away much of the rows behind it (gradient inversion, Zhu et al. 2019)"
    trusted = " The server is trusted to add the noise and to show nobody the updates." if plan.privacy.on else ""
    return f"Rows do not leave a hospital, but {inverted}.{trusted}"


def _robust(plan: Plan) -> Iterator[str]:
    robust = plan.robust
    if robust.rule == OFF:
        yield "Robustness: none. Updates are averaged; one hospital, by mistake or on purpose, can spoil the model."
        return
    rule = "the rule that was chosen" if robust.rule == AUTO else " and ".join((*robust.pre, robust.rule))
    most = robust.num_byzantine
    yield (
        f"Robustness beyond what was planned for: with {rule}, at most {count(most, 'contribution')} of a round may be "
        "anything at all; above that, nothing is claimed. Below it the harm is limited, not ruled out, and the more "
        "hospitals differ, the more harm passes for a difference."
        if most
        else f"Robustness: none. The plan lets {rule} tolerate no bad contribution (num_byzantine = 0)."
    )
    if not (plan.privacy.on and plan.privacy.evaluation is Disclosure.OFF):
        yield (
            "That evaluations are true: the counts that a hospital reports on its held-out rows are believed. One that "
            "lies about them changes the validation figures, and with them what ends training early or is released."
        )


def _not_claimed(run: ReportedRun) -> Iterator[str]:
    plan, claim = run.plan, claimed(run.plan, run.lines)
    if claim is None:
        yield (
            "Differential privacy: none. The released model may tell whether a patient was in the training data "
            "(membership inference, Shokri et al. 2017)."
        )
    else:
        yield (
            f"Differential privacy beyond its claim: {claim.headline()}. Under “Differential privacy” stands against "
            "whom, and what it does not cover."
        )
    yield from _robust(plan)
    if run.deployed:
        yield (
            "That hospitals' rows are what they say: each checks its own, and the server sees none. A hospital that "
            "trains on something else is found only where a rule finds its updates."
        )
    else:
        yield (
            "A network: this was a simulation. One process on one machine held all rows and played every hospital and "
            "the server; nothing was sent, so nothing is shown about transport, identity or access."
        )
    if run.comparison is not None:
        yield (
            "That a federation could draw this report: the comparison with pooled data, and the per-hospital curves, "
            "needed all test rows in one place."
        )
        yield (
            "Performance elsewhere: test rows come from the same data as the training rows. If the plan was tuned "
            "after looking at these figures, they are too good."
        )
    yield "Fitness for clinical use: this model has been validated by nobody."


def _evaluates(plan: Plan) -> bool:
    """Whether anything is told of held-out rows."""
    asked = bool(plan.evaluation.every or plan.data.test)
    return asked and not (plan.privacy.on and plan.privacy.evaluation is Disclosure.OFF)
