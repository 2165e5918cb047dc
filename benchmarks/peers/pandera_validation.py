"""pandera's side of ``benchmarks/validation.py``: reads a table with pandas and checks it; prints one line of JSON."""

from __future__ import annotations

import json
import os
import sys
import time

os.environ["DISABLE_PANDERA_IMPORT_WARNING"] = "True"

import pandas as pd
import pandera.pandas as pa


def peak_mib() -> float:
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:")) / 1024


def main() -> None:
    path, rules = sys.argv[1], json.loads(sys.argv[2])
    columns = {}
    for name, rule in rules.items():
        if rule["type"] == "category":
            columns[name] = pa.Column(checks=pa.Check.isin(rule["categories"]), nullable=True)
        else:
            columns[name] = pa.Column("float64", pa.Check.in_range(*rule["range"]), nullable=True)
    schema = pa.DataFrameSchema(columns)
    start, cpu = time.perf_counter(), time.process_time()
    table = pd.read_parquet(path) if path.endswith(".parquet") else pd.read_csv(path, engine="pyarrow")
    numbers = [name for name, rule in rules.items() if rule["type"] != "category"]
    table[numbers] = table[numbers].astype("float64")
    bad = 0
    try:
        schema.validate(table, lazy=True)
    except pa.errors.SchemaErrors as error:
        bad = error.failure_cases["index"].nunique()
    found = {
        "seconds": time.perf_counter() - start,
        "cpu_s": time.process_time() - cpu,
        "peak_mib": peak_mib(),
        "rows": len(table),
        "bad": int(bad),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
