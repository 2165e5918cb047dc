"""Runs of many settings in parallel processes, each kept as a line of JSON: what is there is not run again."""

import json
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

__all__ = ["Cell", "Found", "measure"]

Cell = tuple[str, str, str, int]
Found = dict[tuple[str, ...], dict[str, float]]


def measure(out: Path, cells: Iterable[Cell], run: Callable[[Cell], dict[str, float]]) -> Found:
    """The figures of all cells; those that are missing in `out` are run."""
    found: Found = {}
    if out.exists():
        for line in out.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            found[tuple(map(str, entry["cell"]))] = entry["figures"]
    missing = [cell for cell in cells if tuple(map(str, cell)) not in found]
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), _one_thread) as pool:
        with out.open("a", encoding="utf-8") as file:
            for cell, figures in zip(missing, pool.map(run, missing), strict=True):
                file.write(json.dumps({"cell": list(cell), "figures": figures}) + "\n")
                file.flush()
                found[tuple(map(str, cell))] = figures
                print(f"{' '.join(map(str, cell))} {figures['accuracy']:.3f}", file=sys.stderr, flush=True)
    return found


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
