"""A sweep: a plan's simulation for each value of one key, on several seeds, to see what the key trades for what."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

from wardround.errors import LocalError, WardroundError
from wardround.plan import Plan
from wardround.plan_robust import OFF
from wardround.server.report.privacy import claimed
from wardround.server.runs.caveat import caveat
from wardround.server.runs.comparison import Model
from wardround.server.runs.metrics import PRIMARY, Kind
from wardround.server.runs.run_info import INFO_FILE
from wardround.simulations.result import Result
from wardround.strategies.privacy.claim import stated

__all__ = ["Sweep", "SweepResult", "plan_sweep", "run_sweep", "table_of_sweep"]

_SECTION = "privacy."
_OWN_OFF = ("privacy.statistics", "privacy.evaluation")
"""Keys of [privacy] of which `off` is a value like any other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What is to be run. `values` are as they were written; `off` of a key of [privacy] leaves the section out."""

    plan: Plan
    key: str
    values: tuple[str, ...]
    seeds: tuple[int, ...]

    def runs(self) -> Iterator[tuple[str, int]]:
        """Every (value, seed); the seeds outermost, so that an early end leaves whole tables."""
        yield from ((value, seed) for seed, value in product(self.seeds, self.values))

    def plan_of(self, value: str, seed: int) -> Plan:
        """The plan of a run; no baselines are trained in it. Raises PlanError for what does not fit."""
        whole = value == OFF and self.key.startswith(_SECTION) and self.key not in _OWN_OFF
        settings = [_SECTION.replace(".", "=") if whole else f"{self.key}={value}"]
        if whole and self.plan.privacy.per_client and self.plan.protection.on:
            settings.append(f"clipping.clip_norm={self.plan.privacy.clip_norm}")  # masks need one
        return self.plan.override(["simulation.baselines=false", f"seed={seed}", *settings])

    def folder(self, value: str, seed: int) -> Path:
        """Where the run's directory is, below the sweep's."""
        return Path(f"{self.key}-{_plain(value)}") / f"seed-{seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """What came of a run: its final figures on test rows, and what it spent.

    `claim` is `Claim.to_json()`, None without privacy. A run that failed has no metrics, and says why in `error`.
    """

    value: str
    seed: int
    metrics: dict[str, float] = field(default_factory=dict)
    claim: dict[str, Any] | None = None
    rounds: int = 0
    stopped: str = ""
    error: str = ""


def plan_sweep(plan: Plan, text: str, seeds: int = 1) -> Sweep:
    """The sweep that `text` asks for, e.g. `privacy.epsilon=1,3,8,off`, on `seeds` seeds from the plan's on.

    A comma inside brackets or quotes separates no values. Raises LocalError (PlanError) for a text, key or value that
    does not fit, before anything is run.
    """
    name, equals, listed = text.partition("=")
    values = tuple(value.strip() for value in re.findall(r"""(?:\[[^\]]*\]|"[^"]*"|[^,])+|(?<=,)(?=,|$)""", listed))
    if not equals or not name.strip() or not values or not all(values):
        raise LocalError(f"sweep: expected KEY=VALUE,VALUE,..., e.g. privacy.epsilon=1,3,8,off, got {text!r}")
    if name.strip() == "seed":
        raise LocalError("sweep: expected another key than seed; --seeds N runs every value on N seeds")
    if len({_plain(value) for value in values}) < len(values):
        raise LocalError(f"sweep: expected values that differ in more than signs, got {listed}")
    if plan.data.test == 0 and plan.task.flower_app is None:
        raise LocalError("sweep: expected test rows to judge models by (data.test above 0)")
    sweep = Sweep(plan=plan, key=name.strip(), values=values, seeds=tuple(range(plan.seed, plan.seed + seeds)))
    for value in values:
        sweep.plan_of(value, plan.seed)
    return sweep


def _plain(value: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", value).strip("-") or "-"


def run_sweep(
    sweep: Sweep,
    folder: Path,
    *,
    data: Any = None,
    done: Iterable[SweepResult] = (),
    report: bool = True,
    on_result: Callable[[SweepResult], None] = lambda result: None,
) -> list[SweepResult]:
    """Every run's result, in order; `on_result` is told of each new one as it comes.

    Those that are `done` are not run again; one that was interrupted is continued. `data` is as for `simulate`.
    """
    found = {(one.value, one.seed): one for one in done if not one.error}
    for value, seed in sweep.runs():
        if (value, seed) not in found:
            found[value, seed] = _run(sweep, value, seed, folder, data, report=report)
            on_result(found[value, seed])
    return [found[run] for run in sweep.runs()]


def _run(sweep: Sweep, value: str, seed: int, folder: Path, data: Any, *, report: bool) -> SweepResult:
    """A run that fails (a claim that cannot be met, a model that is not finite) is a result too."""
    from wardround.simulations.simulate import simulate

    path = folder / sweep.folder(value, seed)
    try:
        own = sweep.plan_of(value, seed)
        result = simulate(own, data=data, out=path, resume=(path / INFO_FILE).exists(), report=report)
        metrics = _metrics(result)
    except (WardroundError, ValueError) as error:
        return SweepResult(value=value, seed=seed, error=str(error))
    claim = claimed(own, result.rounds)
    return SweepResult(
        value=value,
        seed=seed,
        metrics=metrics,
        claim=None if claim is None else claim.to_json(),
        rounds=len(result.rounds),
        stopped=result.stopped,
    )


def _metrics(result: Result) -> dict[str, float]:
    """The released model's figures on all test rows: as the simulation sees them, or as the sites counted them."""
    if result.comparison is not None:
        scores = result.comparison.overall.get(Model.FEDERATED, {})
        return {name: one.value for name, one in scores.items()}
    counted = {name: value for name, value in result.metrics.items() if math.isfinite(value)}
    if not counted:
        raise LocalError("no figures on test rows: under [privacy] only a run with a report has them")
    return counted


def table_of_sweep(sweep: Sweep, results: Sequence[SweepResult], created: datetime | None = None) -> dict[str, Any]:
    """sweep.json: the sweep, a point for each value (mean and range over seeds, the claim), every run, its caveat."""
    return {
        "plan": sweep.plan.name,
        "digest": sweep.plan.digest,
        "created": (created or datetime.now(UTC)).isoformat(timespec="seconds"),
        "key": sweep.key,
        "values": list(sweep.values),
        "seeds": list(sweep.seeds),
        "rounds": sweep.plan.rounds,
        "sites": sweep.plan.simulation.sites,
        "metrics": _names(sweep.plan, results),
        "note": "; ".join(sorted({caveat(sweep.plan_of(value, sweep.plan.seed)) for value in sweep.values} - {""})),
        "points": [_point(sweep, value, [one for one in results if one.value == value]) for value in sweep.values],
        "runs": [asdict(one) | {"folder": sweep.folder(one.value, one.seed).as_posix()} for one in results],
    }


def _names(plan: Plan, results: Sequence[SweepResult]) -> list[str]:
    """The metrics to show: the leading one, then accuracy where there is one."""
    known = dict.fromkeys(name for one in results for name in one.metrics)
    leading = () if plan.data.target is None else (PRIMARY[Kind.of(plan.data.target)],)
    return [name for name in dict.fromkeys((*leading, "accuracy")) if name in known] or list(known)[:1]


def _point(sweep: Sweep, value: str, results: Sequence[SweepResult]) -> dict[str, Any]:
    names = dict.fromkeys(name for one in results for name in one.metrics)
    return {
        "value": value,
        "claim": _claim(sweep, value, [one.claim for one in results if not one.error]),
        "metrics": {name: _spread([one.metrics[name] for one in results if name in one.metrics]) for name in names},
        "failed": sum(bool(one.error) for one in results),
    }


def _claim(sweep: Sweep, value: str, claims: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """What holds for the runs of all seeds, each by itself; None where one claims nothing."""
    known = [claim for claim in claims if claim is not None]
    if not known or len(known) < len(claims):
        return None
    epsilon, delta = (max(claim[name] for claim in known) for name in ("epsilon", "delta"))
    return stated(sweep.plan_of(value, sweep.seeds[0]), epsilon, delta).to_json()


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": sum(values) / len(values), "min": min(values), "max": max(values), "runs": len(values)}
