"""The data files inside the installed scikit-learn, found without importing it (which takes seconds)."""

import gzip
import io
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from wardround.errors import MissingExtraError
from wardround.vector import F64

__all__ = ["read_numbers"]


def read_numbers(name: str, *, delimiter: str | None = ",", skip: int = 0) -> F64 | None:
    """The numbers in the file `name`, gzipped or not, without its first `skip` lines; shape (rows, values).

    None when this scikit-learn has no such file. Raises MissingExtraError without scikit-learn.
    """
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise MissingExtraError("simulation", "sklearn")
    path = Path(spec.origin).parent / "datasets" / "data" / name
    if not path.is_file():
        return None
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return np.loadtxt(io.BytesIO(text), delimiter=delimiter, skiprows=skip, ndmin=2)
