"""`python -m wardround.client.trainer.first_model PLAN OUT`: the model that a plan begins with, as a safetensors file.

The server has no torch, so that whoever starts a run makes it. It follows from the plan alone: the same plan gives the
same file. The file holds float32 tensors by name; its metadata, under `wardround`, are JSON: `layout` (name and shape
of each tensor, in the order of the update vector), `evaluate_spec` (what an evaluation counts) and `plan_digest`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from wardround.durable_file import replace_file
from wardround.errors import LocalError, MissingExtraError, WardroundError
from wardround.orders import derive_seed
from wardround.plan import Plan, load_plan
from wardround.tally import MeansSpec, TallySpec, encode_spec
from wardround.vector import F32, Layout

__all__ = ["first_model", "main"]


def first_model(plan: Plan) -> bytes:
    """The file of the plan's first model. Raises LocalError where the plan's code fails."""
    try:
        import safetensors.numpy
    except ModuleNotFoundError:
        raise MissingExtraError("job", "safetensors") from None
    layout, vector, spec = _of_app(plan) if plan.task.flower_app is not None else _of_task(plan)
    if not np.isfinite(vector).all():
        raise LocalError(f"plan {plan.name}: expected a first model of finite numbers")
    about: dict[str, Any] = {
        "layout": [[tensor.name, list(tensor.shape)] for tensor in layout.tensors],
        "evaluate_spec": json.loads(encode_spec(spec)),
        "plan_digest": plan.digest,
    }
    text = json.dumps(about, sort_keys=True, separators=(",", ":"))
    tensors = {name: np.ascontiguousarray(part) for name, part in layout.split(vector).items()}
    data: bytes = safetensors.numpy.save(tensors, metadata={"wardround": text})
    return data


def _of_task(plan: Plan) -> tuple[Layout, F32, TallySpec]:
    from wardround.client.trainer.bundle import load_task
    from wardround.client.trainer.flat_model import initial_vector, layout_of

    task = load_task(plan)
    return layout_of(task, plan), initial_vector(task, plan, derive_seed(plan.seed, "model")), task.tally_spec


def _of_app(plan: Plan) -> tuple[Layout, F32, TallySpec]:
    from wardround.client.trainer.flower_app import load_flower_app

    flower = load_flower_app(plan)
    return flower.layout, flower.vector(flower.initial), MeansSpec()


def main(arguments: list[str]) -> int:
    """Write the file; the exit code. What is wrong is one line on stderr."""
    if len(arguments) != 2:
        print("usage: python -m wardround.client.trainer.first_model PLAN OUT", file=sys.stderr)
        return 2
    plan, out = map(Path, arguments)
    try:
        replace_file(out, first_model(load_plan(plan)), mode=0o600)
    except WardroundError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {out}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
