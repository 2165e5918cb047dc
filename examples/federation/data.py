"""Deal the 569 patients of the breast-cancer data out to hospitals: `data.py FOLDER NAME...` writes FOLDER/NAME.csv.

Every patient goes to one hospital; the first gets about half of them, as hospitals differ in size.
"""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wardround.simulations.datasets.breast_cancer import load


def deal(folder: Path, names: Sequence[str]) -> None:
    """A table for each of `names`, with a header; the same each time."""
    table = load()
    assert table.target is not None
    header = [*table.columns, table.target_name]
    columns = [*table.columns.values(), table.target]
    order = np.random.Generator(np.random.Philox(key=1)).permutation(len(table))
    share = np.linspace(0, 1, len(names) + 1) ** 0.7
    cuts = (share[1:-1] * len(order)).astype(int)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in zip(names, np.split(order, cuts), strict=True):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(header)
            writer.writerows([column[row] for column in columns] for row in rows)


if __name__ == "__main__":
    deal(Path(sys.argv[1]), sys.argv[2:])
