"""Private inference on this machine: ``python benchmarks/inference.py``.

Models are trained by the simulator on the breast-cancer plan: a logistic regression, and an MLP with one hidden layer
of 16 and the quadratic activation. All 569 patients are asked about, encrypted, by the functions of the commands;
labels are compared with `wardround predict`, and outputs (differences of logits) with float64 arithmetic in the clear.
CPU microseconds a row and bytes a row are given for the 569 rows, which fill a part of a ciphertext, and for as many
rows as fill one. Beside the logistic regression, on the same rows: TenSEAL's own vectors, feature by feature, in the
parameters that the spec names as too coarse, and in those that tutorials use.

With ``--relu``: how far polynomials are from a trained MLP with ReLU, and what can be proven of them, in the clear.
Exit code 1 when a gate is missed.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from environments import HERE
from numpy.polynomial import chebyshev
from simulation import Findings, Gate, machine, print_table, progress, spread, values, write

from wardround.plan_source import find_plan
from wardround.server.runs.model_file import read_model
from wardround.simulations import private_inference
from wardround.simulations.inference_model import OwnedModel, read_owned_model
from wardround.simulations.prediction import predict
from wardround.simulations.simulate import simulate
from wardround.standardization import standardize
from wardround.strategies.he.private_inference import Asker, Owner, new_key

MODELS = {
    "logistic": ["task.model=logistic"],
    "mlp 16": ["task.model=mlp", "task.hidden=[16]", "task.options={quadratic = true}"],
}
PEERS = {"TenSEAL 4096 [40, 20, 40]": (4096, [40, 20, 40], 20), "TenSEAL 8192 [60, 40, 60]": (8192, [60, 40, 60], 40)}
RUN_US_GATE, FEATURES_OF_THE_GATE = 11.0, 32
"""The spec's figure for the server: microseconds a row for 32 features."""
DEGREES = (2, 4, 8, 16, 32, 64)
RELU = ["task.model=mlp", "task.hidden=[8]"]


def patients() -> tuple[list[str], np.ndarray]:
    from sklearn.datasets import load_breast_cancer

    return [column.name for column in find_plan("breast-cancer").data.columns], load_breast_cancer().data


def trained(folder: Path, settings: Sequence[str]) -> Path:
    simulate(find_plan("breast-cancer").override(list(settings)), out=folder, report=False)
    return folder


def encoded(owned: OwnedModel) -> np.ndarray:
    """Shape (569, 30), standardised as the model wants it."""
    return standardize(owned.plan.data, patients()[1].astype(np.float32), owned.statistics).astype(np.float64)


def flips(folder: Path, run: Path) -> tuple[int, int]:
    """Labels that differ from those of `predict`, and rows: from file to file, as a doctor and an owner do it."""
    folder.mkdir()
    names, x = patients()
    with (folder / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([names, *x.tolist()])
    private_inference.describe(run, folder / "info")
    private_inference.keygen(folder / "info", folder / "key", folder / "context")
    private_inference.encrypt(folder / "info", folder / "key", folder / "rows.csv", folder / "query")
    private_inference.run(run, folder / "query", folder / "context", folder / "answer")
    found = private_inference.decrypt(folder / "info", folder / "key", folder / "query", folder / "answer")
    plain = predict(run, folder / "rows.csv")
    return sum(a != b for a, b in zip(found.classes, plain.classes, strict=True)), len(found.classes)


def ours(owned: OwnedModel, rows: np.ndarray) -> dict[str, Any]:
    network, parameters = owned.network, owned.assurance.parameters
    secret, public = new_key(parameters, squares=network.squares > 0)
    asker, owner = Asker(parameters, secret), Owner(parameters, public, network)
    query, encrypt_s = timed(lambda: list(asker.encrypt(rows)))
    answer, run_s = timed(lambda: owner.answer(query))
    outputs, decrypt_s = timed(
        lambda: asker.decrypt(answer, rows=len(rows), outputs=network.outputs, squares=network.squares)
    )
    return {
        "error": float(np.abs(outputs - network(rows)).max()),
        "bound": owned.assurance.error,
        "encrypt_us": encrypt_s / len(rows) * 1e6,
        "run_us": run_s / len(rows) * 1e6,
        "decrypt_us": decrypt_s / len(rows) * 1e6,
        "query_bytes": sum(map(len, query)) / len(rows),
        "answer_bytes": sum(map(len, answer)) / len(rows),
        "context_bytes": len(public),
    }


def peer(owned: OwnedModel, rows: np.ndarray, degree: int, primes: list[int], scale: int) -> dict[str, Any]:
    """TenSEAL's vectors: one a feature, each times its weight."""
    import tenseal as ts

    context = ts.context(ts.SCHEME_TYPE.CKKS, degree, coeff_mod_bit_sizes=primes)
    context.global_scale = 2.0**scale
    public = ts.context_from(context.serialize(save_galois_keys=False))
    [layer] = owned.network.layers
    query, encrypt_s = timed(lambda: [ts.ckks_vector(context, column.tolist()).serialize() for column in rows.T])

    def run() -> bytes:
        total = None
        for data, weight in zip(query, layer.weight[0].tolist(), strict=True):
            product = ts.ckks_vector_from(public, data) * weight
            total = product if total is None else total + product
        return (total + layer.bias[0]).serialize()

    answer, run_s = timed(run)
    outputs, decrypt_s = timed(lambda: np.array(ts.ckks_vector_from(context, answer).decrypt()))
    return {
        "error": float(np.abs(outputs - owned.network(rows)[:, 0]).max()),
        "bound": float("nan"),
        "encrypt_us": encrypt_s / len(rows) * 1e6,
        "run_us": run_s / len(rows) * 1e6,
        "decrypt_us": decrypt_s / len(rows) * 1e6,
        "query_bytes": sum(map(len, query)) / len(rows),
        "answer_bytes": len(answer) / len(rows),
        "context_bytes": len(public.serialize(save_galois_keys=False)),
    }


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    return call(), time.process_time() - start


def compare(findings: Findings, folder: Path, repetitions: int) -> None:
    owned: dict[str, OwnedModel] = {}
    for name, settings in MODELS.items():
        run = trained(folder / name, settings)
        owned[name] = read_owned_model(run)
        flipped, rows = flips(folder / f"{name} files", run)
        findings.gates.append(
            Gate(name=f"{name}: label flips of {rows} patients", measured=flipped, bound=0, at_least=False)
        )
    parties: dict[tuple[str, str], Callable[[], dict[str, Any]]] = {}
    for name, one in owned.items():
        x, slots = encoded(one), one.assurance.parameters.slots
        for rows in (x, np.resize(x, (slots, x.shape[1]))):
            parties[name, f"{len(rows)} rows"] = lambda one=one, rows=rows: ours(one, rows)
    logistic = owned["logistic"]
    for name, (degree, primes, scale) in PEERS.items():
        full = np.resize(encoded(logistic), (degree // 2, 30))
        parties[name, f"{len(full)} rows"] = lambda p=primes, d=degree, s=scale, rows=full: peer(
            logistic, rows, d, p, s
        )
    for repetition in range(repetitions):
        order = list(parties)
        for key in (*order[repetition % len(order) :], *order[: repetition % len(order)]):
            found = parties[key]()
            findings.runs.append({"party": key[0], "rows": key[1], "repetition": repetition, **found})
        progress(f"repetition {repetition + 1} of {repetitions}")
    columns = ("encrypt_us", "run_us", "decrypt_us")
    headings = [f"{column.removesuffix('_us')}, µs a row" for column in columns]
    table: list[tuple[str, ...]] = [
        ("model", "rows", "largest error", "bound", *headings, "query, B a row", "answer, B a row")
    ]
    for name, rows in parties:
        runs = [run for run in findings.runs if (run["party"], run["rows"]) == (name, rows)]
        timings = [spread(values(runs, column), 2) for column in columns]
        sizes = [f"{np.median(values(runs, column)):.0f}" for column in ("query_bytes", "answer_bytes")]
        bound = f"{runs[0]['bound']:.1e}"
        table.append((name, rows, f"{max(values(runs, 'error')):.1e}", bound, *timings, *sizes))
        if name in MODELS:
            worst = max(run["error"] / run["bound"] for run in runs)
            findings.gates.append(
                Gate(name=f"{name}, {rows}: error over its bound", measured=worst, bound=1, at_least=False)
            )
    print_table(table)
    slots = logistic.assurance.parameters.slots
    full_runs = [run for run in findings.runs if (run["party"], run["rows"]) == ("logistic", f"{slots} rows")]
    measured = float(np.median(values(full_runs, "run_us"))) * FEATURES_OF_THE_GATE / logistic.network.inputs
    findings.gates.append(
        Gate(name="logistic: owner's µs a row for 32 features", measured=measured, bound=RUN_US_GATE, at_least=False)
    )


def relu(folder: Path) -> None:
    """Polynomials for ReLU, each fitted to the range that its neuron can have on the plan's ranges."""
    run = trained(folder / "relu", RELU)
    model, plan = read_model(run / "model.safetensors"), find_plan("breast-cancer")
    parts = {name: part.astype(np.float64) for name, part in model.layout.split(model.model).items()}
    ends = np.array([column.range for column in plan.data.columns], dtype=np.float32).T
    low, high = standardize(plan.data, ends, model.statistics).astype(np.float64)
    x = standardize(plan.data, patients()[1].astype(np.float32), model.statistics).astype(np.float64)
    weight, bias = parts["hidden1.weight"], parts["hidden1.bias"]
    out = parts["output.weight"][1] - parts["output.weight"][0]
    constant = parts["output.bias"][1] - parts["output.bias"][0]
    least = np.minimum(weight * low, weight * high).sum(axis=1) + bias
    most = np.maximum(weight * low, weight * high).sum(axis=1) + bias
    hidden = x @ weight.T + bias
    exact = np.maximum(hidden, 0) @ out + constant
    grid = np.cos(np.pi * (np.arange(20_000) + 0.5) / 20_000)
    table: list[tuple[str, ...]] = [("degree", "proven error of the logit", "largest on 569 patients", "label flips")]
    for degree in DEGREES:
        found, bound = np.full(len(x), constant), 0.0
        for neuron, (a, b) in enumerate(zip(least, most, strict=True)):
            values_there = np.maximum((b - a) / 2 * grid + (b + a) / 2, 0)
            fitted = chebyshev.chebfit(grid, values_there, degree)
            bound += abs(out[neuron]) * np.abs(chebyshev.chebval(grid, fitted) - values_there).max()
            found += out[neuron] * chebyshev.chebval((hidden[:, neuron] - (b + a) / 2) / ((b - a) / 2), fitted)
        row = (f"{bound:.2f}", f"{np.abs(found - exact).max():.2f}", str(int(((found > 0) != (exact > 0)).sum())))
        table.append((str(degree), *row))
    print_table(table)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0], allow_abbrev=False)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--relu", action="store_true", help="polynomials for ReLU, and nothing else")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "inference.json", help="JSON")
    return parser.parse_args(arguments)


def main() -> int:
    args, findings, begin = parse(), Findings(), machine()
    if begin["load_average"] > 0.5:
        progress(f"load average {begin['load_average']:.1f}: other work is running, and figures will show it")
    with tempfile.TemporaryDirectory() as name:
        if args.relu:
            relu(Path(name))
            return 0
        compare(findings, Path(name), args.repetitions)
    write(findings, begin, args.output)
    for gate in findings.gates:
        print(gate)
    return 0 if all(gate.passed for gate in findings.gates) else 1


if __name__ == "__main__":
    sys.exit(main())
