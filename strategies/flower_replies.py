"""What Flower nodes send back: the global model as one vector, and replies as contributions."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from flwr.app import Array, ArrayRecord, Message
from numpy.typing import DTypeLike, NDArray

from wardround.contribution import Contribution, Evidence, Verdict
from wardround.errors import LocalError
from wardround.orders import SiteId
from wardround.tally import Tally
from wardround.vector import F32, Layout, MemoryVector, TensorSpec

__all__ = ["GlobalModel", "answers_of", "contributions_of", "node_of"]

_log = logging.getLogger("flwr")
_SHOWN = 60
"""What a reply says is quoted up to so many characters."""


@dataclass(frozen=True, slots=True, eq=False)
class GlobalModel:
    """The arrays of a round by name; `layout` has the learned ones, `vector` is them, float32 of shape (d,)."""

    arrays: Mapping[str, NDArray[np.generic]]
    layout: Layout
    vector: F32

    @classmethod
    def of(cls, record: ArrayRecord) -> Self:
        """Raises LocalError unless the arrays are numbers, some of them floating-point, and those finite."""
        arrays = {name: array.numpy() for name, array in record.items()}
        for name, array in arrays.items():
            if array.dtype.kind not in "fiub":
                raise LocalError(
                    f"global model: expected floats, integers or booleans, array {name!r} is {array.dtype}"
                )
            if _is_learned(array) and not np.isfinite(array).all():
                raise LocalError(f"global model: expected finite arrays, {name!r} is not")
        learned = {name: array for name, array in arrays.items() if _is_learned(array)}
        if not learned:
            raise LocalError("global model: expected at least one floating-point array")
        layout = Layout(tuple(TensorSpec(name=name, shape=array.shape) for name, array in learned.items()))
        with np.errstate(over="ignore"):
            return cls(arrays, layout, layout.flatten(learned))

    def record(self) -> ArrayRecord:
        """The model as it was sent."""
        return ArrayRecord({name: Array(array) for name, array in self.arrays.items()})

    def update(self, record: ArrayRecord) -> F32:
        """What `record` adds to the learned arrays, shape (d,).

        Raises ValueError for other names, shapes or types.
        """
        if odd := sorted(set(record) ^ set(self.arrays)):
            kind = "no array" if odd[0] in record else "an array"
            raise ValueError(f"expected {kind} named {_quoted(odd[0])}")
        differences = {}
        with np.errstate(all="ignore"):  # what is not finite is refused by the rule
            for name, mine in self.arrays.items():
                theirs = _parse(name, record[name], mine)
                if _is_learned(mine):
                    differences[name] = np.subtract(theirs, mine, dtype=_wide(mine.dtype))
            return self.layout.flatten(differences)

    def plus(self, update: F32) -> ArrayRecord | None:
        """The model with `update`, shape (d,), added to it, in its own types; None when that is not finite."""
        updates = self.layout.split(update)
        made = dict(self.arrays)
        with np.errstate(all="ignore"):
            for name, part in updates.items():
                mine = self.arrays[name]
                made[name] = np.asarray(np.add(mine, part, dtype=_wide(mine.dtype)).astype(mine.dtype))
        if not all(np.isfinite(made[name]).all() for name in updates):
            return None
        return ArrayRecord({name: Array(array) for name, array in made.items()})

    def with_constants(self, arrays: ArrayRecord) -> ArrayRecord:
        """`arrays` with what is not learned as it was: Flower's mean turns counters into floats."""
        learned = {tensor.name for tensor in self.layout.tensors}
        constants = {name: Array(array) for name, array in self.arrays.items() if name not in learned}
        return ArrayRecord({name: constants.get(name, array) for name, array in arrays.items()})


def _is_learned(array: NDArray[np.generic]) -> bool:
    return array.dtype.kind == "f"


def _wide(dtype: np.dtype[Any]) -> DTypeLike:
    """The type to add and subtract in: float32 or what is longer."""
    return np.result_type(dtype, np.float32)


def _quoted(text: str) -> str:
    return repr(text[:_SHOWN])


def _parse(name: str, array: Array, like: NDArray[np.generic]) -> NDArray[np.generic]:
    """The values of `array`, which must be of the type and shape of `like`; else ValueError.

    The bytes are what `numpy.save` writes: magic, version, length, header, values. The header has to be the one that is
    expected, so that nothing a node wrote is evaluated and nothing is allocated that it made up.
    """
    data, width = array.data, 4 if array.data[6:8] == b"\x02\x00" else 2
    start = 8 + width + int.from_bytes(data[8 : 8 + width], "little")
    header = data[8 + width : start].rstrip()
    for order in ("C", "F"):
        described = {"descr": np.lib.format.dtype_to_descr(like.dtype), "fortran_order": order == "F"}
        expected = f"{str(described)[:-1]}, 'shape': {like.shape}, }}"
        if header == expected.encode() and len(data) == start + like.nbytes and array.stype == "numpy.ndarray":
            return np.frombuffer(data, dtype=like.dtype, offset=start).reshape(like.shape, order=order)
    got = _quoted(f"{array.dtype} of shape {array.shape}")
    raise ValueError(f"array {name!r}: expected {like.dtype} of shape {like.shape}, got bytes for another, named {got}")


def node_of(message: Message) -> SiteId:
    return SiteId(str(message.metadata.src_node_id))


def answers_of(step: str, replies: Iterable[Message]) -> list[Message]:
    """The replies that have content, by node, whenever they came; the others are logged, as FedAvg does."""
    given = sorted(replies, key=node_of)
    answers = [message for message in given if message.has_content()]
    _log.info("%s: Received %s results and %s failures", step, len(answers), len(given) - len(answers))
    for message in given:
        if message.has_error():
            _log.info("\t> Received error in reply from node %s: %s", node_of(message), message.error.reason)
    return answers


def contributions_of(answers: Sequence[Message], model: GlobalModel) -> tuple[list[Contribution], list[Evidence]]:
    """The answers as contributions of equal weight, and a line for each that is none."""
    contributions, refused = [], []
    counts, nothing = Counter(map(node_of, answers)), Tally.of_means(0, {})
    for answer in answers:
        node, records = node_of(answer), list(answer.content.array_records.values())
        try:
            if counts[node] > 1:
                raise ValueError(f"expected one reply, got {counts[node]}")
            if len(records) != 1:
                raise ValueError(f"expected one ArrayRecord, got {len(records)}")
            vector = MemoryVector(model.update(records[0]))
        except ValueError as error:
            line = Evidence(members=(node,), weight=0.0, norm=None, verdict=Verdict.REFUSED, reason=str(error))
            refused.append(line)
        else:
            contributions.append(Contribution(members=(node,), weight=1, vector=vector, tally=nothing))
    return contributions, refused
