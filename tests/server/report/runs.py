"""Made-up runs of any size, of which a report can be drawn."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wardround.orders import SiteId
from wardround.plan import Plan, parse_plan
from wardround.server.report import ReportedRun
from wardround.server.runs.comparison import Comparison, Predictions, compare
from wardround.server.runs.run_info import RunInfo
from wardround.vector import F64

INPUTS = 4
TARGETS: Mapping[str, Mapping[str, Any]] = {
    "binary": {"name": "diagnosis", "classes": ["benign", "malignant"]},
    "multiclass": {"name": "digit", "classes": ["0", "1", "2", "3"]},
    "regression": {"name": "dose", "range": [0, 100], "unit": "mg"},
}


def plan_of(kind: str, sites: int, rounds: int, **sections: Any) -> Plan:
    name = "tabular-regressor" if kind == "regression" else "tabular-classifier"
    columns = [{"name": f"x{i}", "range": [0, 9]} for i in range(INPUTS)]
    table: dict[str, Any] = {"name": "made up", "rounds": rounds, "task": {"name": name}}
    table["data"] = {"source": "csv", "path": "rows.csv", "target": TARGETS[kind], "columns": columns}
    table["data"] |= {"standardize": "federated"}
    table["simulation"] = {"sites": sites}
    return parse_plan(table | sections)


def names_of(sites: int) -> list[str]:
    return [f"site-{number:05}" for number in range(1, sites + 1)]


def predictions_of(kind: str, names: Sequence[str], rows: int, *, baselines: bool = True) -> Predictions:
    generator = np.random.Generator(np.random.Philox(key=1))
    n = rows * len(names)
    if kind == "regression":
        y = generator.uniform(0, 100, n)
    else:
        y = generator.integers(0, len(TARGETS[kind]["classes"]), n).astype(np.float64)

    def said(noise: float) -> F64:
        if kind == "regression":
            return y + generator.normal(0, 10 * noise, n)
        if kind == "binary":
            return 1 / (1 + np.exp(-(4 * y - 2 + generator.normal(0, 2 * noise, n))))
        logits = np.eye(4)[y.astype(int)] * 4 + generator.normal(0, 2 * noise, (n, 4))
        shares: F64 = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return shares

    return Predictions(
        sites=tuple(map(SiteId, names)),
        sizes=(rows,) * len(names),
        y=y,
        federated=said(1),
        pooled=said(0.8) if baselines else None,
        alone={SiteId(name): said(2) for name in names} if baselines else {},
    )


def comparison_of(plan: Plan, kind: str, names: Sequence[str], rows: int = 20, **wanted: Any) -> Comparison | None:
    if plan.data.target is None:
        return None
    return compare(plan.data.target, predictions_of(kind, names, rows, **wanted), resamples=50, seed=1)


def lines_of(
    names: Sequence[str],
    rounds: int,
    metrics: Mapping[str, float],
    *,
    cohort: int | None = None,
    lost: float = 0.0,
    void: Sequence[int] = (),
    reason: str = "no reply (dropped out)",
) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl: falling losses, `lost` of each cohort absent."""
    generator = np.random.Generator(np.random.Philox(key=2))
    lines = []
    for number in range(1, rounds + 1):
        drawn = sorted(generator.choice(len(names), cohort or len(names), replace=False).tolist())
        absent = [at for at in drawn if generator.random() < lost]
        validation = {"n": 100, "metrics": {"loss": 0.3 + 0.5 / number, **metrics}, "sites": {}}
        lines.append(
            {
                "round": number,
                "void": number in void,
                "cohort": [names[at] for at in drawn],
                "absences": [{"site": names[at], "reason": reason} for at in absent],
                "lr": 0.1,
                "update_norm": 0.0 if number in void else 1 / number,
                "train": None if number in void else {"n": 300, "metrics": {"loss": 0.2 + 0.6 / number}},
                "validation": validation if number % 2 else None,
                "evidence": [],
                "seconds": 0.1,
                "cpu_seconds": 0.2,
                "simulated_seconds": None,
            }
        )
    return lines


def differences_of(names: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    """As `Heterogeneity.to_json`."""
    generator = np.random.Generator(np.random.Philox(key=3))
    counts = generator.multinomial(60, generator.dirichlet(np.ones(len(labels)), len(names)))
    means = generator.normal(0, 0.5, (len(names), INPUTS))
    return {
        "labels": tuple(labels),
        "inputs": tuple(f"x{i}" for i in range(INPUTS)),
        "label_counts": tuple(counts.sum(axis=0).tolist()),
        "mean": (0.0,) * INPUTS,
        "std": (1.0,) * (INPUTS - 1) + (0.0,),
        "sites": tuple(
            {
                "site": name,
                "n": 60,
                "train": 40,
                "validation": 8,
                "test": 12,
                "label_counts": tuple(count),
                "label_distance": 0.1,
                "mean": tuple(mean),
                "std": (1.0,) * INPUTS,
                "input_distance": 0.2,
            }
            for name, count, mean in zip(names, counts.tolist(), means.tolist(), strict=True)
        ),
    }


def info_of(plan: Plan) -> RunInfo:
    return RunInfo(
        run_id="00ff",
        plan_digest=plan.digest,
        source_digest=plan.digest,
        version="0.1.0",
        created="2026-01-02T03:04:05+00:00",
        engine={"executor": "flat", "workers": 2},
    )


def run_of(
    kind: str = "binary", *, sites: int = 4, rounds: int = 6, names: Sequence[str] = (), **wanted: Any
) -> ReportedRun:
    """A whole run; `wanted` replaces fields of it."""
    names = names or names_of(sites)
    plan = plan_of(kind, len(names), rounds)
    metrics = {"binary": {"auc": 0.9}, "multiclass": {"accuracy": 0.9}, "regression": {"rmse": 9.0}}[kind]
    labels = TARGETS[kind].get("classes", ["0 to 25", "25 to 50", "50 to 75", "75 to 100"])
    judged = names[:100]
    found: dict[str, Any] = {
        "plan": plan,
        "info": info_of(plan),
        "lines": lines_of(names, rounds, metrics),
        "comparison": None if "comparison" in wanted else comparison_of(plan, kind, judged),
        "differences": differences_of(names, labels),
        "released_round": rounds,
        "versions": {"python": "3.11", "torch": "2"},
    }
    return ReportedRun(**found | wanted)
