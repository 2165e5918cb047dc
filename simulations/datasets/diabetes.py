"""Diabetes: 442 patients, ten measurements at baseline, and the disease's progression a year later.

Source: B. Efron, T. Hastie, I. Johnstone, R. Tibshirani, "Least angle regression", Annals of Statistics 32 (2004).
The measurements are the raw ones, not those that scikit-learn scales by default.
"""

import numpy as np

from wardround.client.data.table import Table
from wardround.simulations.datasets.scikit_learn import read_numbers

__all__ = ["load"]

_NAMES = ("age", "sex", "bmi", "bp", "tc", "ldl", "hdl", "tch", "ltg", "glu")


def load() -> Table:
    """442 rows; age (years), sex ("1" or "2"; the source does not say which is which), bmi (kg/m²), bp (mmHg, mean
    arterial), tc, ldl, hdl, glu (mg/dl), tch (tc/hdl), ltg (log of triglycerides); target `progression`, 25 to 346.
    """
    numbers = read_numbers("diabetes_data_raw.csv.gz", delimiter=None)
    progression = read_numbers("diabetes_target.csv.gz")
    if numbers is None or progression is None:
        from sklearn.datasets import load_diabetes

        numbers, progression = load_diabetes(return_X_y=True, scaled=False)
    columns = dict(zip(_NAMES, np.asarray(numbers).T, strict=True))
    return Table(
        source="diabetes", columns=columns, target=np.asarray(progression).reshape(-1), target_name="progression"
    )
