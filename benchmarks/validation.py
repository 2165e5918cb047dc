"""Validation of a table beside pandera on the same rules: ``python benchmarks/validation.py [--rows N]``.

50 columns: 40 numbers and 5 whole numbers in a range, 5 categories; one cell in a hundred is missing, a few break a
rule. Each run is a new process, which reads the file and checks every cell; parties take turns, ratios are taken within
a repetition. Both must count the same bad rows. pandera gets the table from pandas, read with pyarrow.

    ours      ``validate_file``: what `wardround client data validate` and every job do, in batches
    pandera   ``pd.read_csv(engine="pyarrow")`` or ``read_parquet``, then ``DataFrameSchema.validate(lazy=True)``

Exit code 1 when a gate is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from environments import HERE, ensure
from simulation import Findings, Gate, interleaved, machine, paired_ratios, print_table, progress, spread, values, write

OURS, PANDERA = PARTIES = ("ours", "pandera")
FORMATS = ("csv", "parquet")
SECONDS_GATE, MEMORY_GATE_MIB = 5.0, 1000.0
CATEGORIES = ["low", "mid", "high", "very high"]


def rules() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    found |= {f"number {at}": {"type": "number", "range": [0, 400]} for at in range(40)}
    found |= {f"whole {at}": {"type": "integer", "range": [0, 99]} for at in range(5)}
    return found | {f"category {at}": {"type": "category", "categories": CATEGORIES} for at in range(5)}


def write_tables(folder: Path, rows: int) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    random = np.random.default_rng(1)
    columns: dict[str, Any] = {}
    for name, rule in rules().items():
        missing = random.random(rows) < 0.01
        if rule["type"] == "category":
            columns[name] = pa.array(np.array(CATEGORIES)[random.integers(0, 4, rows)], mask=missing)
        elif rule["type"] == "integer":
            columns[name] = pa.array(random.integers(0, 100, rows), mask=missing)
        else:
            numbers = np.round(random.normal(100, 20, rows), 2)
            numbers[random.integers(0, rows, 2)] = 4711.0  # two rows break the rule
            columns[name] = pa.array(numbers, mask=missing)
    table = pa.table(columns)
    pyarrow.csv.write_csv(table, folder / "table.csv", pyarrow.csv.WriteOptions(quoting_style="needed"))
    pyarrow.parquet.write_table(table, folder / "table.parquet")


def peak_mib() -> float:
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:")) / 1024


def ours(path: Path) -> dict[str, float]:
    from wardround.client.data.schema import parse_schema
    from wardround.client.data.validate_file import validate_file

    text = f'format = "{path.suffix[1:]}"\n'
    for name, rule in rules().items():
        text += f'[[columns]]\nname = "{name}"\ntype = "{rule["type"]}"\nmissing = "allow"\n'
        text += f"categories = {json.dumps(CATEGORIES)}\n" if "categories" in rule else f"range = {rule['range']}\n"
    schema = parse_schema(text.encode())
    start, cpu = time.perf_counter(), time.process_time()
    report = validate_file(schema, path)
    return {
        "seconds": time.perf_counter() - start,
        "cpu_s": time.process_time() - cpu,
        "peak_mib": peak_mib(),
        "rows": report.rows,
        "bad": report.bad,
    }


def one_run(party: str, path: Path) -> dict[str, Any]:
    if party == OURS:
        command = [sys.executable, __file__, "--child", str(path)]
    else:
        command = [
            str(ensure("pandera")),
            str(HERE / "peers" / "pandera_validation.py"),
            str(path),
            json.dumps(rules()),
        ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{party}: {done.stderr.strip()[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(findings: Findings, args: argparse.Namespace, folder: Path) -> None:
    rows: list[tuple[str, ...]] = [("file", "party", "seconds", "CPU, s", "peak, MiB", "its CPU over ours")]
    for form in FORMATS:
        runs: dict[str, list[dict[str, Any]]] = {party: [] for party in PARTIES}
        for repetition, party in interleaved(PARTIES, args.repetitions):
            found = one_run(party, folder / f"table.{form}")
            runs[party].append({"party": party, "format": form, "repetition": repetition, **found})
            progress(f"{form}, {party}: {found['seconds']:.2f} s, {found['cpu_s']:.2f} s of CPU")
        findings.runs += [run for of in runs.values() for run in of]
        assert len({(run["rows"], run["bad"]) for of in runs.values() for run in of}) == 1, "not the same bad rows"
        for party in PARTIES:
            columns = (("seconds", 2), ("cpu_s", 2), ("peak_mib", 0))
            figures = [spread(values(runs[party], key), digits) for key, digits in columns]
            rows.append((form, party, *figures, spread(paired_ratios(runs[party], runs[OURS], "cpu_s"), 2)))
        for key, bound, what in (("seconds", SECONDS_GATE, "seconds"), ("peak_mib", MEMORY_GATE_MIB, "peak MiB")):
            measured = statistics.median(values(runs[OURS], key))
            findings.gates.append(Gate(name=f"{form}: {what}", measured=measured, bound=bound, at_least=False))
    print_table(rows)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0], allow_abbrev=False)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "validation.json", help="JSON")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main() -> int:
    args = parse()
    if args.child:
        print(json.dumps(ours(args.child)))
        return 0
    findings, begin = Findings(), machine()
    if begin["load_average"] > 0.5:
        progress(f"load average {begin['load_average']:.1f}: other work is running, and figures will show it")
    with tempfile.TemporaryDirectory() as name:
        write_tables(Path(name), args.rows)
        compare(findings, args, Path(name))
    write(findings, begin, args.output)
    for gate in findings.gates:
        print(gate)
    return 0 if all(gate.passed for gate in findings.gates) else 1


if __name__ == "__main__":
    sys.exit(main())
