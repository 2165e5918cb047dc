"""Handwritten digits: 1797 images of 8 x 8 pixels, values 0 to 16.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998
(its test set). No patients: a small image problem to try a federation with.
"""

import numpy as np

from wardround.client.data.table import Table
from wardround.simulations.datasets.scikit_learn import read_numbers

__all__ = ["load"]


def load() -> Table:
    """1797 images of shape (1, 8, 8), target `digit`: "0" to "9"."""
    numbers = read_numbers("digits.csv.gz")
    if numbers is None:
        from sklearn.datasets import load_digits

        numbers = np.column_stack(load_digits(return_X_y=True))
    return Table(
        source="digits",
        array=numbers[:, :-1].reshape(-1, 1, 8, 8),
        target=numbers[:, -1].astype(np.int64),
        target_name="digit",
    )
