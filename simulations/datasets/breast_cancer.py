"""Breast Cancer Wisconsin (Diagnostic): 569 patients, 30 features of cell nuclei, benign or malignant.

Source: W. N. Street, W. H. Wolberg, O. L. Mangasarian, "Nuclear feature extraction for breast tumor diagnosis",
IS&T/SPIE 1993. Lengths are measured in the image and published without a calibrated unit.
"""

import numpy as np

from wardround.client.data.table import Table
from wardround.simulations.datasets.scikit_learn import read_numbers

__all__ = ["load"]

_FEATURES = (
    "radius",
    "texture",
    "perimeter",
    "area",
    "smoothness",
    "compactness",
    "concavity",
    "concave points",
    "symmetry",
    "fractal dimension",
)
_NAMES = (
    *(f"mean {name}" for name in _FEATURES),
    *(f"{name} error" for name in _FEATURES),
    *(f"worst {name}" for name in _FEATURES),
)


def load() -> Table:
    """569 rows, 30 number columns, target `diagnosis`: "malignant" (212 rows) or "benign"."""
    numbers = read_numbers("breast_cancer.csv", skip=1)
    if numbers is None:
        from sklearn.datasets import load_breast_cancer

        numbers = np.column_stack(load_breast_cancer(return_X_y=True))
    return Table(
        source="breast-cancer",
        columns=dict(zip(_NAMES, numbers[:, :-1].T, strict=True)),
        target=np.array(["malignant", "benign"], dtype=object)[numbers[:, -1].astype(np.int64)],
        target_name="diagnosis",
    )
