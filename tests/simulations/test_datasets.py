"""The data sets are scikit-learn's, read without importing it."""

import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets

from wardround.client.data.table import Table
from wardround.errors import MissingExtraError
from wardround.simulations.datasets import breast_cancer, diabetes, digits, scikit_learn


def same_as_scikit_learn(name: str, table: Table) -> None:
    if name == "breast-cancer":
        expected = sklearn.datasets.load_breast_cancer()
        assert list(table.columns) == expected.feature_names.tolist()
        assert np.array_equal(np.column_stack(list(table.columns.values())), expected.data)
        assert table.target is not None
        assert table.target.tolist() == expected.target_names[expected.target].tolist()
    elif name == "diabetes":
        expected = sklearn.datasets.load_diabetes(scaled=False)
        assert np.array_equal(np.column_stack(list(table.columns.values())), expected.data)
        assert list(table.columns)[:4] == expected.feature_names[:4] and table.target is not None
        assert np.array_equal(table.target, expected.target)
    else:
        expected = sklearn.datasets.load_digits()
        assert table.array is not None and table.target is not None
        assert np.array_equal(table.array[:, 0], expected.images) and np.array_equal(table.target, expected.target)


LOADS = {"breast-cancer": breast_cancer.load, "diabetes": diabetes.load, "digits": digits.load}


@pytest.mark.parametrize("name", LOADS)
def test_a_data_set_is_scikit_learns(name: str) -> None:
    same_as_scikit_learn(name, LOADS[name]())


@pytest.mark.parametrize("name", LOADS)
def test_scikit_learn_is_asked_when_its_files_moved(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    moved = ModuleSpec("sklearn", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(scikit_learn, "find_spec", lambda _: moved)
    same_as_scikit_learn(name, LOADS[name]())


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scikit_learn, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"wardround\[simulation\]"):
        digits.load()


def test_loading_imports_neither_scikit_learn_nor_torch() -> None:
    code = (
        "import sys\n"
        "from wardround.simulations.datasets import breast_cancer, diabetes, digits\n"
        "print(len(breast_cancer.load()), len(diabetes.load()), len(digits.load()))\n"
        "print(sorted({'sklearn', 'torch', 'scipy', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["569 442 1797", "[]"]
