"""What a job does: read the site's rows once, then train and count as it is asked."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.client.data.encoding import encode_table
from wardround.client.data.files import read_table
from wardround.client.data.site_data import SiteData
from wardround.client.data.splits import split_rows
from wardround.client.job.messages import decode_order, encode_tally
from wardround.client.trainer.trainer import Trainer
from wardround.errors import LocalError, RemoteError, WardroundError
from wardround.local_channel import Channel, Shared
from wardround.orders import EvalJob, FitJob, SiteId
from wardround.plan import Plan, parse_plan
from wardround.plan_sections import FILE_SOURCES

__all__ = ["Work", "serve"]


def serve(channel: Channel) -> None:
    """Answer requests until the other end is closed."""
    work = Work()
    while True:
        try:
            header, shared = channel.receive()
        except EOFError:
            return
        try:
            answer, made = work.answer(header, shared)
        except WardroundError as error:
            answer, made = {"error": str(error)}, []
        except Exception as error:  # the outermost loop: the agent is told, the log has the rest
            import traceback

            traceback.print_exc()
            answer, made = {"error": f"the job failed ({type(error).__name__})"}, []
        channel.send(answer, made)
        for one in (*shared, *made):
            one.close()


class Work:
    """The rows of one site under one plan, and their trainer, which is made with the first order."""

    def __init__(self) -> None:
        self._plan: Plan | None = None
        self._data: SiteData | None = None
        self._trainer: Trainer | None = None

    def answer(self, header: dict[str, Any], shared: list[Shared]) -> tuple[dict[str, Any], list[Shared]]:
        """The answer to a request, and what goes with it. Raises WardroundError where there is none."""
        try:
            asked = header["do"]
            if asked == "describe":
                return self._describe(header), []
            if asked == "statistics":
                return {"tally": encode_tally(self.trainer.statistics())}, []
            order, site, model = decode_order(header["order"]), self._site, shared[0]
            self._restore(shared[1])
            vector = np.frombuffer(model.view(), dtype="<f4")
            if asked == "evaluate":
                tally = self.trainer.evaluate(EvalJob(order=order, site=site), vector)
                return {"tally": encode_tally(tally)}, []
            if asked == "fit":
                result = self.trainer.fit(FitJob(order=order, site=site, seed=int(header["seed"])), vector)
                update = Shared.of(memoryview(np.ascontiguousarray(result.update, dtype="<f4")).cast("B"))
                answer = {"num_examples": result.num_examples, "tally": encode_tally(result.tally)}
                return answer, [update, Shared.of(self._state())]
        except (KeyError, IndexError, TypeError):
            raise RemoteError("job: expected a request with all its parts") from None
        raise RemoteError("job: expected a request that it knows")

    def _describe(self, header: dict[str, Any]) -> dict[str, Any]:
        plan = parse_plan(header["plan"], folder=Path(header["folder"]))
        if plan.digest != header["digest"]:
            raise LocalError("job: expected the plan and code that were approved, got others")
        if header["format"] not in FILE_SOURCES:
            raise RemoteError("job: expected a table as CSV or Parquet")
        if plan.task.flower_app is not None:
            raise LocalError("a Flower app reads its data itself, which a confined job has no other way to; give a task")
        path, site = Path(header["file"]), SiteId(header["site"])
        data = replace(plan.data, source=header["format"], path=str(path))
        encoded = encode_table(data, read_table(data, path), path.name)
        self._plan, self._trainer = plan, None
        self._data = found = split_rows(plan, site, encoded.rows, encoded.patients)
        patients = None if found.patients is None else int(found.patients.max(initial=-1)) + 1
        return {"rows": len(encoded.rows), "train": len(found.train), "patients": patients}

    @property
    def _site(self) -> SiteId:
        return self._described()[1].site

    def _described(self) -> tuple[Plan, SiteData]:
        if self._plan is None or self._data is None:
            raise RemoteError("job: expected to be told of the data first")
        return self._plan, self._data

    @property
    def trainer(self) -> Trainer:
        """The trainer of the plan's task; with it the plan's code is loaded."""
        if self._trainer is None:
            from wardround.client.trainer.bundle import load_task
            from wardround.client.trainer.private_trainer import PrivateTrainer
            from wardround.client.trainer.torch_trainer import TorchTrainer

            plan, data = self._described()
            kind = PrivateTrainer if plan.privacy.per_example else TorchTrainer
            self._trainer = kind(load_task(plan), plan, data)
        return self._trainer

    def _state(self) -> bytes:
        from safetensors.numpy import save

        state: dict[str, NDArray[Any]] | None = getattr(self.trainer, "state", None)
        return b"" if not state else save({name: np.ascontiguousarray(array) for name, array in state.items()})

    def _restore(self, state: Shared) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            kept = load(bytes(state.view())) if state.size else None
        except SafetensorError:
            raise LocalError("job: expected what it kept after a round; it is damaged") from None
        self.trainer.state = kept  # type: ignore[attr-defined]
