"""model-card.md: what a model was trained for, on what, how well it does, and what it must not be used for.

The headings follow Mitchell et al. 2019, "Model Cards for Model Reporting" (arXiv 1810.03993), section 4.
"""

import html
import platform
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from wardround.orders import Split
from wardround.plan import Plan
from wardround.plan_robust import OFF
from wardround.plan_sections import BatchNorm, Column, Data, Select
from wardround.plan_simulation import Cryptography
from wardround.server.report.privacy import claimed
from wardround.server.runs.caveat import caveat
from wardround.server.runs.comparison import Comparison, Estimate, Model
from wardround.server.runs.run_info import RunInfo
from wardround.server.runs.site_profiles import Heterogeneity
from wardround.strategies.secagg.plan_terms import parameters_of

__all__ = ["model_card", "software_versions"]

_MOST_COLUMNS = 200
_PACKAGES = ("wardround", "torch", "flwr", "numpy", "safetensors")
_MODELS = {
    Model.FEDERATED: "this model",
    Model.ALONE: "each hospital alone (mean of the models)",
    Model.POOLED: "all training rows pooled",
}


def software_versions() -> dict[str, str]:
    """What is installed here, by name; a package that is not is left out."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def model_card(
    plan: Plan,
    info: RunInfo,
    lines: Sequence[Mapping[str, Any]],
    *,
    released_round: int,
    stopped: str = "",
    comparison: Comparison | None = None,
    sites: Heterogeneity | None = None,
    untested: Sequence[str] = (),
    versions: Mapping[str, str],
    deployed: bool = False,
    tested: Mapping[str, Any] | None = None,
) -> str:
    """The card of the model as it was after `released_round`, Markdown.

    `lines` are the run's metrics.jsonl, `stopped` says why it ended early (empty: it did not). Without a
    `comparison` the figures are those that real sites counted on their test rows (`tested`: `{"n", "metrics"}`), or
    else of the validation. `deployed`: the sites were real.
    """
    sections = {
        "Model": _model(plan, released_round, deployed=deployed),
        "Results": _results(plan, lines, released_round, comparison, tested),
        "Data": _data(plan, sites, deployed=deployed),
        "Training": _training(plan, lines, stopped),
        "Intended use": _INTENDED_USE,
        "Limits": _limits(plan, comparison, untested, deployed=deployed, tested=tested is not None),
        "Privacy and security": _claims(plan, lines, deployed=deployed),
        "Provenance": _provenance(info, versions),
    }
    text = "\n\n".join(f"## {title}\n\n" + "\n".join(body) for title, body in sections.items())
    return f"# {_plain(plan.name)}\n\n{text}\n"


_INTENDED_USE = (
    "Research on federated training, and a starting point for validation on a hospital's own patients.",
    "",
    "It is no medical device, and it was not validated for decisions about patients. Before any use on patients:",
    "validate it on rows of the hospital where it will be used, and have the result judged by its clinicians.",
)


def _model(plan: Plan, released_round: int, *, deployed: bool) -> Iterator[str]:
    task, target = plan.task, plan.data.target
    what = task.flower_app or task.entry or task.name
    yield f"- Task: {_plain(what)}{f', model {_plain(task.model)}' if task.model else ''}"
    if target is not None and target.classes:
        yield f"- Predicts: {_plain(target.name)}, one of {', '.join(_plain(label) for label in target.classes)}"
        if len(target.classes) == 2:
            yield f"- Positive class: {_plain(target.classes[1])}"
    elif target is not None and target.range is not None:
        yield f"- Predicts: {_plain(target.name)}, {_span(target.range, target.unit)}"
    chosen = ", the best on the validation rows" if plan.evaluation.select is Select.BEST else ""
    sealed = plan.protection.sealed_model and deployed
    file = "sealed; a member opens it: `wardround client model open`" if sealed else "`model.safetensors`"
    yield f"- Released: the model after round {released_round}{chosen} ({file})"
    if plan.training.batch_norm is BatchNorm.LOCAL:
        yield "- Running statistics of BatchNorm, if it has any, stay at each site; they are not in the file"


def _results(
    plan: Plan,
    lines: Sequence[Mapping[str, Any]],
    released_round: int,
    comparison: Comparison | None,
    tested: Mapping[str, Any] | None,
) -> Iterator[str]:
    if comparison is not None:
        shown = {label: comparison.overall[model] for model, label in _MODELS.items() if model in comparison.overall}
        interval = "; in brackets 95 % bootstrap intervals" if comparison.resamples else ""
        yield f"On the {comparison.test_rows} test rows of all sites, which no training used{interval}:"
        yield ""
        yield from _table(
            ("metric", *shown),
            (
                (metric, *(_estimate(scores.get(metric)) for scores in shown.values()))
                for metric in comparison.overall[Model.FEDERATED]
            ),
        )
        return
    if tested is not None:
        yield f"On the {tested['n']} test rows of all sites, which no training used; every site counted its own:"
        yield ""
        yield from _values_of(tested["metrics"])
        return
    judged = [line for line in lines if line["validation"] and line["round"] <= released_round]
    if not judged:
        yield "This run was not evaluated: nothing is known about how good the model is."
        return
    last = judged[-1]
    choice = ", which also steered the training" if _steered(plan) else ""
    yield f"On the {last['validation']['n']} validation rows of the sites{choice}, after round {last['round']}:"
    yield ""
    yield from _values_of(last["validation"]["metrics"])


def _values_of(metrics: Mapping[str, float | None]) -> Iterator[str]:
    found = ((name, f"{value:.4g}") for name, value in metrics.items() if value is not None)
    yield from _table(("metric", "value"), found)


def _data(plan: Plan, sites: Heterogeneity | None, *, deployed: bool) -> Iterator[str]:
    data, simulation = plan.data, plan.simulation
    if deployed:
        yield f"- Sites: {simulation.sites}, each with a data set of its own that did not leave it"
    else:
        yield f"- Source: {_plain(data.source)}"
        yield f"- Sites: {simulation.sites}, simulated on one machine (partition {_plain(simulation.partition.kind)})"
    if sites is not None:
        counts = {split: sum(getattr(site, split.value) for site in sites.sites) for split in Split}
        sizes = [site.n for site in sites.sites]
        parts = ", ".join(f"{count} {split.value}" for split, count in counts.items())
        span = f"{min(sizes)} to {max(sizes)}" if min(sizes) < max(sizes) else str(max(sizes))
        yield f"- Rows: {sum(sizes)} ({parts}); {span} at a site"
        if data.target is not None and data.target.classes:
            labels = zip(sites.labels, sites.label_counts, strict=True)
            yield f"- Labels: {', '.join(f'{_plain(label)} {count}' for label, count in labels)}"
    yield f"- Standardisation: {data.standardize.value}; missing values: {data.missing.value}"
    if data.image is not None:
        low, high = data.image.range
        yield f"- Images: {' x '.join(map(str, data.image.shape))} (channels, height, width), {low:g} to {high:g}"
    if data.columns:
        yield from _columns(data)


def _columns(data: Data) -> Iterator[str]:
    yield f"- Columns: {len(data.columns)}"
    yield ""
    rows = ((_plain(column.name), _plain(column.unit), _values(column)) for column in data.columns[:_MOST_COLUMNS])
    yield from _table(("column", "unit", "valid values"), rows)
    if len(data.columns) > _MOST_COLUMNS:
        yield ""
        yield f"{len(data.columns) - _MOST_COLUMNS} more columns are in plan.toml."


def _values(column: Column) -> str:
    if column.categories:
        return ", ".join(_plain(category) for category in column.categories)
    return "any number" if column.range is None else _span(column.range, "")


def _training(plan: Plan, lines: Sequence[Mapping[str, Any]], stopped: str) -> Iterator[str]:
    training, cohort, optimizer = plan.training, plan.cohort, plan.server_optimizer
    yield f"- Rounds: {len(lines)} of {plan.rounds}{f'; stopped: {_plain(stopped)}' if stopped else ''}"
    if void := sum(bool(line["void"]) for line in lines):
        yield f"- Void rounds (too few updates came): {void}"
    if absent := sum(len(line["absences"]) for line in lines):
        yield f"- Absences of a drawn site: {absent}"
    yield f"- Cohort: {plan.cohort_size} of {plan.simulation.sites} sites a round, weights by {plan.weighting.value}"
    if cohort.without:
        yield f"- Without the sites {', '.join(map(_plain, cohort.without))}"
    count, noun = (training.steps, "step") if training.steps is not None else (training.epochs or 1, "epoch")
    yield (
        f"- At a site: {training.optimizer.value}, learning rate {training.lr:g} ({training.schedule.value}), "
        f"{count} {noun}{'s'[: count != 1]}, batches of {training.batch_size}"
    )
    yield f"- At the server: {optimizer.name.value}, learning rate {optimizer.lr:g}"
    if plan.clipping.clip_norm is not None:
        yield f"- Updates clipped to the L2 norm {plan.clipping.clip_norm:g}"
    attack = plan.simulation.attack
    if attack.attackers:
        yield f"- Simulated attack: {attack.attackers} sites, {_plain(attack.name)}, from round {attack.from_round}"
    if out := lines[-1].get("quarantined") if lines else None:
        yield f"- In quarantine at the end: {', '.join(map(_plain, out))}"
    yield f"- Seed: {plan.seed}"


def _limits(
    plan: Plan, comparison: Comparison | None, untested: Sequence[str], *, deployed: bool, tested: bool
) -> Iterator[str]:
    if not deployed:
        yield "- All sites were simulated on one machine; real hospitals differ in more ways."
    yield "- The figures hold for rows like those it was judged on; nothing is known about others, or about subgroups."
    for site in untested:
        yield f"- Not tested by {_plain(site)}"
    if comparison is not None and not comparison.resamples:
        yield "- The figures have no intervals."
    if tested:
        yield "- The figures are counts that sites made and that nobody else can check; they have no intervals."
    elif comparison is None and _steered(plan):
        yield "- Figures on rows that steered the training are too good."
    if plan.data.columns:
        yield "- Inputs must have the units above; values that are not valid are refused, never corrected."


def _claims(plan: Plan, lines: Sequence[Mapping[str, Any]], *, deployed: bool) -> Iterator[str]:
    yield from _protection(plan, deployed=deployed)
    yield from _privacy(plan, lines)
    rule = _plain("+".join((*plan.robust.pre, plan.robust.rule)))
    yield (
        "- No protection against poisoned updates: one bad site could spoil the model."
        if plan.robust.rule == OFF
        else f"- Updates were combined by {rule}, which reckons with up to {plan.robust.num_byzantine} bad "
        f"contributions of {plan.contributions} a round; nothing is claimed beyond that, and nothing against backdoors."
    )


def _protection(plan: Plan, *, deployed: bool) -> Iterator[str]:
    if not plan.protection.on:
        yield "- Updates were sent in clear: the server saw every site's update."
        return
    if said := caveat(plan, deployed=deployed):
        yield f"- Secure aggregation: {_plain(said)}."
    if plan.simulation.cryptography is Cryptography.ACCOUNTING:
        return
    parameters = parameters_of(plan)
    if plan.protection.homomorphic:
        yield (
            "- Homomorphic aggregation (bfv): in a round the server is told the sum of at least "
            f"{parameters.min_survivors} of {parameters.clients} sites' updates, or nothing. It learns no more as long "
            "as no site gives it the key: one site's key opens every update that the server was sent. What the sums of "
            "several rounds tell together, only differential privacy bounds."
        )
        if plan.protection.sealed_model and deployed:
            yield (
                "- Sealed model: at rest the server has this model only as a file that those open who had the key of "
                "the last epoch. It had the model in its memory during the run, and backups of that time have "
                "checkpoints in them."
            )
        return
    yield (
        f"- Secure aggregation (masking): in a round the server learns, of {parameters.groups_in_words()} sites, each "
        f"group's sum of at least {parameters.min_survivors} updates, or nothing; it and any {parameters.colluding} of "
        "the sites together learn no more. What the sums of several rounds tell together, only differential privacy "
        "bounds."
    )


def _privacy(plan: Plan, lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    claim = claimed(plan, lines)
    if claim is None:
        yield "- No differential privacy: the model may tell who was in the training rows, and what they looked like."
        return
    yield f"- Differential privacy: {_plain(claim.headline())}"
    yield from (f"  - {what}: {_plain(said)}" for what, said in claim.facts())
    yield from (f"  - Warning: {_plain(warning)}" for warning in claim.warnings)
    yield from (f"  - It rests on this: {_plain(sentence)}" for sentence in claim.assumptions)
    yield from (f"  - Not covered: {_plain(sentence)}" for sentence in claim.not_covered)


def _provenance(info: RunInfo, versions: Mapping[str, str]) -> Iterator[str]:
    yield f"- Plan digest: `{info.plan_digest}`"
    if info.source_digest != info.plan_digest:
        yield f"- Digest of the plan as it was given, with other paths: `{info.source_digest}`"
    if info.origin is not None:
        sites = ", ".join(map(_plain, info.origin["without"]))
        yield (
            f"- Retrained without {sites} from round {info.origin['from_round']} of run "
            f"`{_plain(info.origin['run_id'])}`; this is not certified unlearning"
        )
    yield f"- Run: `{_plain(info.run_id)}`, started {_plain(info.created)} with wardround {_plain(info.version)}"
    yield f"- Engine: {_plain(info.computed_by)}"
    yield f"- Software: {', '.join(f'{name} {number}' for name, number in versions.items())}"


def _steered(plan: Plan) -> bool:
    return plan.evaluation.select is Select.BEST or plan.evaluation.patience is not None


def _span(limits: tuple[float, float], unit: str) -> str:
    return f"{limits[0]:g} to {limits[1]:g}{f' {_plain(unit)}' if unit else ''}"


def _estimate(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.4g}"
    return f"{estimate.value:.4g} ({estimate.low:.4g} to {estimate.high:.4g})"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for row in (header, ["---"] * len(header), *rows):
        yield f"| {' | '.join(row)} |"


def _plain(text: str) -> str:
    """`text` on one line, with nothing in it that Markdown or HTML would take for its own."""
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", html.escape(" ".join(text.split()), quote=False))
