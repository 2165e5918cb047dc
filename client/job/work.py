"""What a job does: read the site's rows once, close their file, then train and count as it is asked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from wardround.client.data.site_data import SiteData
from wardround.client.data.site_rows import read_site_rows
from wardround.client.data.splits import split_rows
from wardround.client.job.messages import (
    Answer,
    Count,
    Counted,
    Describe,
    Described,
    Evaluate,
    Failed,
    Fit,
    Fitted,
    Load,
    Loaded,
    Request,
    decode_request,
    encode_answer,
)
from wardround.client.trainer.trainer import Trainer
from wardround.errors import LocalError, RemoteError, WardroundError
from wardround.local_channel import Channel, Shared
from wardround.orders import EvalJob, FitJob, Order, SiteId
from wardround.plan import Plan, parse_plan
from wardround.plan_sections import FILE_SOURCES
from wardround.tally import Tally
from wardround.vector import F32

__all__ = ["Work", "serve"]

_BUNDLE = "bundle"


def serve(channel: Channel, scratch: Path, table: BinaryIO) -> None:
    """Answer requests until the other end is closed. `scratch` is a folder that the plan's code is written to."""
    work = Work(scratch, table)
    while True:
        try:
            header, shared = channel.receive()
        except EOFError:
            return
        made: list[Shared] = []
        try:
            answer, made = work.answer(decode_request(header, len(shared)), shared)
        except WardroundError as error:
            answer = Failed(text=str(error))
        except Exception as error:  # the outermost loop: the agent is told what kind, the log has the rest
            import traceback

            traceback.print_exc()
            answer = Failed(text=f"the job failed ({type(error).__name__}); its log says more")
        channel.send(encode_answer(answer), made)
        for one in (*shared, *made):
            one.close()


class Work:
    """The rows of one site under one plan, and their trainer, which is made when the plan's code comes.

    The open file `table` is closed before that, so that no code of a plan finds what was not read of it: identifiers,
    and columns that the plan does not name. It has no name here by which it could be opened again.
    """

    def __init__(self, scratch: Path, table: BinaryIO) -> None:
        self._scratch, self._table = scratch, table
        self._plan: Plan | None = None
        self._data: SiteData | None = None
        self._trainer: Trainer | None = None

    def answer(self, request: Request, shared: Sequence[Shared]) -> tuple[Answer, list[Shared]]:
        """The answer to a request, and the memory that goes with it. Raises WardroundError where there is none."""
        match request:
            case Describe():
                return self._describe(request), []
            case Load():
                return self._load(request), []
            case Count():
                return _counted(self._ready()[2].statistics())
            case Evaluate():
                site, model, trainer = self._resume(shared)
                return _counted(trainer.evaluate(EvalJob(order=Order.decode(request.order), site=site), model))
            case Fit():
                site, model, trainer = self._resume(shared)
                result = trainer.fit(FitJob(order=Order.decode(request.order), site=site, seed=request.seed), model)
                update = Shared.of(np.ascontiguousarray(result.update, dtype="<f4").data.cast("B"))
                counted, counts = _counted(result.tally)
                answer = Fitted(num_examples=result.num_examples, spec=counted.spec)
                return answer, [update, *counts, Shared.of(_state(trainer))]

    def _describe(self, asked: Describe) -> Described:
        folder = self._scratch / _BUNDLE
        plan = parse_plan(asked.plan, folder=folder, code_files=asked.code_files)
        if plan.digest != asked.digest:
            raise LocalError("expected the plan that was approved, got another; is it another version of wardround?")
        if asked.format not in (*FILE_SOURCES, "images"):
            raise RemoteError("expected a table as CSV or Parquet, or images")
        if plan.task.flower_app is not None:
            raise LocalError(
                "a Flower app reads data by itself, which a job keeps from it; expected a plan with a task"
            )
        if self._table.closed:
            raise RemoteError("expected to be asked what is there before the plan's code is loaded")
        rows = read_site_rows(plan.data, self._table, asked.table, asked.format, asked.rules)
        self._plan, self._trainer = plan, None
        self._data = found = split_rows(plan, SiteId(asked.site), rows.rows, rows.patients, rows.withdrawn)
        patients = None if found.patients is None else int(found.patients.max(initial=-1)) + 1 + found.gone_patients
        gone = 0 if rows.withdrawn is None else int(rows.withdrawn.sum())
        train = len(found.train) + found.gone_rows
        return Described(rows=len(rows.rows), train=train, patients=patients, withdrawn=gone)

    def _load(self, asked: Load) -> Loaded:
        from wardround.client.trainer.bundle import load_task
        from wardround.client.trainer.private_trainer import PrivateTrainer
        from wardround.client.trainer.torch_trainer import TorchTrainer

        plan, data = self._described()
        self._table.close()
        code = plan.folder / (plan.task.code or "")
        for name, content in asked.files.items():
            place = code / name
            if not place.resolve().is_relative_to(self._scratch.resolve()):
                raise RemoteError("expected code that lies below its folder")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        kind = PrivateTrainer if plan.privacy.per_example else TorchTrainer
        self._trainer = kind(load_task(plan), plan, data)
        return Loaded()

    def _described(self) -> tuple[Plan, SiteData]:
        if self._plan is None or self._data is None:
            raise RemoteError("expected to be told of the data first")
        return self._plan, self._data

    def _ready(self) -> tuple[Plan, SiteData, Trainer]:
        plan, data = self._described()
        if self._trainer is None:
            raise RemoteError("expected the plan's code first")
        return plan, data, self._trainer

    def _resume(self, shared: Sequence[Shared]) -> tuple[SiteId, F32, Trainer]:
        """The site, the model, and the trainer with the state that came along."""
        _, data, trainer = self._ready()
        model, state = shared
        if model.size % 4:
            raise RemoteError("expected a model of whole numbers of float32")
        _restore(trainer, state)
        return data.site, np.frombuffer(model.view(), dtype="<f4"), trainer


def _counted(tally: Tally) -> tuple[Counted, list[Shared]]:
    counts = np.ascontiguousarray(tally.counts, dtype="<i8")
    return Counted(spec=tally.spec), [Shared.of(counts.data.cast("B"))]


def _state(trainer: Trainer) -> bytes:
    """What the site keeps between rounds: arrays by name, as safetensors; empty where there is nothing."""
    from safetensors.numpy import save

    state: dict[str, NDArray[Any]] | None = getattr(trainer, "state", None)
    return save({name: np.asarray(array, order="C") for name, array in state.items()}) if state else b""


def _restore(trainer: Trainer, state: Shared) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        kept = load(bytes(state.view())) if state.size else None
    except SafetensorError:
        raise LocalError("expected what the site kept after a round; it is damaged") from None
    trainer.state = kept  # type: ignore[attr-defined]
