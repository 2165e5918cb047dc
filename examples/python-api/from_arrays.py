# %% [markdown]
# # A federation from arrays
# Each hospital's rows are a pair (X, y); nothing is written to disk.

# %%
import numpy as np

from wardround.plan import parse_plan
from wardround.simulations.simulate import simulate

random = np.random.Generator(np.random.Philox(key=7))


def hospital(patients: int, age: float) -> tuple[np.ndarray, np.ndarray]:
    """Age, blood pressure and lactate of invented patients, and who needed intensive care."""
    x = random.normal((age, 120, 1.5), (10, 15, 0.8), size=(patients, 3))
    risk = 0.08 * (x[:, 0] - 60) - 0.03 * (x[:, 1] - 120) + 1.5 * (x[:, 2] - 1.5)
    return x, (random.random(patients) < 1 / (1 + np.exp(-risk))).astype(np.int64)


sites = {"north": hospital(220, 66), "south": hospital(160, 58), "children's": hospital(90, 52)}

# %% [markdown]
# ## The plan
# Columns, ranges and classes are part of it, so that every hospital builds the same vector.

# %%
plan = parse_plan(
    {
        "name": "from-arrays",
        "rounds": 15,
        "task": {"name": "tabular-classifier", "model": "logistic"},
        "data": {
            "source": "arrays",
            "target": {"name": "intensive care", "classes": ["no", "yes"]},
            "standardize": "federated",
            "columns": [
                {"name": "age", "unit": "years", "range": [0, 120]},
                {"name": "blood pressure", "unit": "mmHg", "range": [30, 250]},
                {"name": "lactate", "unit": "mmol/l", "range": [-5, 20]},
            ],
        },
        "training": {"lr": 0.3, "batch_size": 16},
        "simulation": {"sites": 3},
    }
)

# %%
result = simulate(plan, data=sites)
print(result)

# %% [markdown]
# ## A prediction
# Rows go in as they are; they are standardised as in training.

# %%
print(result.predict(np.array([[81.0, 95.0, 4.2]])).round(2))
