"""The executor for small models: a block of clients is one computation."""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from wardround.client.trainer.batches import U64, Batches, seed_array
from wardround.client.trainer.bundle import foreign_code
from wardround.client.trainer.flat_model import FlatModel
from wardround.client.trainer.local_optimizer import Tensors, num_moments, optimizer_step
from wardround.client.trainer.private_model import model_of
from wardround.errors import LocalError
from wardround.orders import FitJob, LocalResult, Split
from wardround.plan import Plan
from wardround.simulations.executors.block_batches import BlockBatches, BlockRows
from wardround.simulations.executors.flat_loop import TrainerOf, one_thread
from wardround.simulations.executors.stacked_gradient import stacked_gradient
from wardround.task import Task
from wardround.vector import F32

__all__ = ["Blocks", "bytes_per_client", "why_not_blocks"]

_GATHERED_BYTES = 32 << 20


def why_not_blocks(model: FlatModel) -> str:
    """Why the model cannot be trained in blocks; empty when nothing speaks against it."""
    if model.is_stochastic:
        return "the model draws random numbers while it trains (dropout)"
    for name, part in model.module.named_modules():
        if isinstance(part, _BatchNorm) or (isinstance(part, _NormBase) and part.track_running_stats):
            return f"layer {name!r} is {type(part).__name__}, which keeps statistics of a client's rows"
    if len(model.trained) != len(list(model.module.parameters())):
        return "some of the model's parameters are frozen"
    return ""


def bytes_per_client(model: FlatModel, plan: Plan, x: Tensor) -> int:
    """Estimate of the memory that one client with rows `x`, shape (n, ...), takes in a block.

    Parameters, gradients, optimiser state, temporaries and the result; the rows twice (together, and as batches);
    three times the activations of a batch.
    """
    activations = 0

    def count(_module: object, _inputs: object, outputs: Tensor) -> None:
        nonlocal activations
        activations += outputs.numel()

    leaves = [part for part in model.module.modules() if not list(part.children())]
    handles = [part.register_forward_hook(count) for part in leaves]
    with torch.no_grad():
        model.module(x[:1])
    for handle in handles:
        handle.remove()
    copies = 5 + num_moments(plan.training) + (1 if plan.training.proximal_mu else 0)
    batch = min(plan.training.batch_size, len(x))
    return 4 * (copies * model.layout.size + 3 * batch * activations) + 2 * x.nbytes


class Blocks:
    """Trains `block_size` clients at once, each with its own parameters, rows, batches and optimiser state.

    A client takes the same batches in the same order as in FlatLoop; smaller batches are filled up with rows that
    do not count, and clients that have finished are left out of further steps. Updates agree with FlatLoop's to
    rounding (which Adam enlarges where a gradient is not much above its `eps`); their bits depend on `block_size` and
    on who is in the block, and on nothing else.
    Raises LocalError, with the reason, for a model that cannot be trained in blocks.
    """

    def __init__(self, task: Task, plan: Plan, trainer_of: TrainerOf, *, block_size: int) -> None:
        self._task, self._plan, self._trainer_of, self._block_size = task, plan, trainer_of, block_size
        model = FlatModel(model_of(task, plan, 0), plan.training.batch_norm)
        if reason := why_not_blocks(model):
            raise LocalError(f'simulation.executor: expected a model for blocks, but {reason}; use "flat"')
        model.module.train()
        self._layout, self._gradient = model.layout, stacked_gradient(task, model.module)
        self._rows = np.empty((block_size, model.layout.size), dtype=np.float32)
        self._parameters, self._gradients = self._stack(), self._stack()
        self._moments = [self._stack() for _ in range(num_moments(plan.training))]

    def _stack(self) -> list[Tensor]:
        """One tensor (block_size, ...) for each tensor of the layout. Each is contiguous, which the batched products
        need to be fast, and so are its first k clients."""
        return [torch.zeros(self._block_size, *tensor.shape) for tensor in self._layout.tensors]

    @property
    def block_size(self) -> int:
        return self._block_size

    def fit(self, jobs: Iterable[FitJob], model: F32) -> Iterator[LocalResult]:
        """A result for each job, in order. A result's update is valid until the next block begins."""
        jobs = iter(jobs)
        while block := list(islice(jobs, self._block_size)):
            sites = f"sites {block[0].site} to {block[-1].site}"
            with one_thread(), foreign_code(f"{sites}: training in round {block[0].order.round}"):
                results = self._fit(block, model)
            yield from results

    def _fit(self, jobs: list[FitJob], model: F32) -> list[LocalResult]:
        """Clients that take more steps come first inside the block, so that those still at work are its head."""
        training = self._plan.training
        trainers = [self._trainer_of(job.site) for job in jobs]
        rows = [trainer.rows(Split.TRAIN, job.order.statistics) for trainer, job in zip(trainers, jobs, strict=True)]
        plans = [trainer.batches for trainer in trainers]
        order = sorted(range(len(jobs)), key=lambda client: -plans[client].steps)
        losses = self._train(
            BlockRows.of([rows[i] for i in order], [trainers[i].example_weights() for i in order]),
            [plans[i] for i in order],
            seed_array(*(jobs[i].seed for i in order)),
            model,
            training.lr_at(jobs[0].order.round, self._plan.rounds),
        )
        places = np.argsort(order)
        updates, at = self._rows[: len(jobs)], 0
        for stack in self._parameters:
            trained = stack.numpy().reshape(self._block_size, -1)[places]
            piece = slice(at, at + trained.shape[1])
            np.subtract(trained, model[piece], out=updates[:, piece])
            at = piece.stop
        summed = losses.numpy()[places].tolist()
        return [trainer.result(loss, row) for trainer, loss, row in zip(trainers, summed, updates, strict=True)]

    @torch.no_grad()
    def _train(self, block: BlockRows, plans: list[Batches], seeds: U64, model: F32, lr: float) -> Tensor:
        """Train all clients from `model`; the summed loss of each, shape (k,)."""
        training = self._plan.training
        origin = [torch.from_numpy(values.copy()) for values in self._layout.split(model).values()]
        for stack, values in zip(self._parameters, origin, strict=True):
            stack.copy_(values)
        for moment in self._moments:
            torch._foreach_zero_(moment)
        losses = torch.zeros(len(plans), dtype=torch.float64)
        steps, step_bytes = plans[0].steps, len(plans) * plans[0].batch_size * block.rows.x[0].nbytes
        at_once = max(1, _GATHERED_BYTES // max(step_bytes, 1))
        clients = 0
        for start in range(0, steps, at_once):
            batches = BlockBatches.gather(block, plans, seeds, start, min(start + at_once, steps))
            seen = torch.zeros_like(batches.share)
            for at, (active, width) in enumerate(zip(batches.active, batches.widths, strict=True)):
                if active != clients:
                    clients = active
                    parameters, out, *moments = (
                        [tensor[:active] for tensor in stack]
                        for stack in (self._parameters, self._gradients, *self._moments)
                    )
                x, y, share = (part[at, :active, :width] for part in (batches.x, batches.y, batches.share))
                seen[at, :active, :width], gradients = self._gradient(parameters, x, y, share, out)
                if training.proximal_mu:
                    drift = torch._foreach_sub(parameters, origin)
                    gradients = torch._foreach_add(gradients, drift, alpha=training.proximal_mu)
                if training.gradient_clip_norm is not None:
                    gradients = _clipped(gradients, training.gradient_clip_norm)
                optimizer_step(training, lr, start + at + 1, parameters, gradients, moments)
            losses += (seen * (batches.share > 0)).sum((0, 2), dtype=torch.float64)
        return losses


def _clipped(gradients: Tensors, norm: float) -> Tensors:
    """Each client's gradient with an L2 norm of at most `norm`, over all its tensors."""
    squares = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients]).sum(0)
    scale = (norm / squares.sqrt()).clamp(max=1.0)
    return [gradient * scale.view(-1, *[1] * (gradient.dim() - 1)) for gradient in gradients]
