"""What a server learns from Flower's SecAgg+: ``python benchmarks/flower_secagg_attacks.py [--all-seeds]``.

Four facts about the installed flwr, each shown with its own client mod and its own server workflow, over a grid in
this process. Exit code 1 when one of them holds no longer.

1. One request too much is answered: the server names a client among the survivors and among the drop-outs, in the
   request to unmask that it sends anyhow, and recovers that client's update. The run's own result is right.
2. A pair of honest clients is protected by 28 bits. A server with the help of the one client beside them searches all
   seeds. Measured here is the search in a sample that contains the right one; ``--all-seeds`` searches all 2^28.
3. A client that drops out after the first message, before it shares its keys, ends the round with a KeyError.
4. Beside the masked update each client's number of examples and metrics leave in clear.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

import numpy as np
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.compat.common import recorddict_compat as compat
from flwr.server import LegacyContext, ServerConfig, SimpleClientManager
from flwr.server.compat.grid_client_proxy import GridClientProxy
from flwr.server.strategy import FedAvg
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.serverapp import Grid
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

U32 = NDArray[np.uint32]

HERE = Path(__file__).resolve().parent
SIZE, EXAMPLES = 1000, 500
CLIPPING, TARGET, MODULUS, MAX_WEIGHT = 8.0, 1 << 22, 1 << 32, 1000.0
STEP = 2 * CLIPPING / TARGET * MAX_WEIGHT / EXAMPLES
"""What an update is rounded to, by its weight: the precision of what is recovered."""

Meddle = Callable[[int, str, ConfigRecord], bool]
"""Called with every request (node, stage, its configuration, which may be changed); false: the node is gone."""


def update_of(node: int) -> NDArray[np.float32]:
    return np.random.default_rng(node).normal(0, 0.1, SIZE).astype(np.float32)


class Nodes(Grid):
    """Clients with Flower's mod; `answers` has what the server got, by stage and node."""

    def __init__(self, nodes: Sequence[int], meddle: Meddle) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        self.contexts = {node: Context(1, node, {}, RecordDict(), {}) for node in nodes}
        self.answers: dict[str, dict[int, ConfigRecord]] = {}
        self.errors: list[str] = []
        self.clear: dict[int, FitRes] = {}
        self._meddle = meddle

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return [self._ask(message) for message in messages]

    def _ask(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        config = message.content.config_records[RECORD_KEY_CONFIGS]
        stage = str(config[Key.STAGE])
        # the mod takes from the configuration what it reads: every node gets its own
        content = RecordDict({**message.content, RECORD_KEY_CONFIGS: ConfigRecord(dict(config))})
        if not self._meddle(node, stage, content.config_records[RECORD_KEY_CONFIGS]):
            return Message(Error(code=1, reason="gone"), reply_to=message)
        asked = Message(content, node, message.metadata.message_type, group_id=message.metadata.group_id)
        try:
            reply = secaggplus_mod(asked, self.contexts[node], self._train)
        except Exception as error:  # as Flower's own worker does
            self.errors.append(f"{type(error).__name__}: {error}")
            return Message(Error(code=2, reason=self.errors[-1]), reply_to=message)
        self.answers.setdefault(stage, {})[node] = found = reply.content.config_records[RECORD_KEY_CONFIGS]
        if stage == Stage.COLLECT_MASKED_VECTORS:
            self.clear[node] = compat.recorddict_to_fitres(reply.content, keep_input=True)
        content = RecordDict({**reply.content, RECORD_KEY_CONFIGS: _first_of_each(found)})
        return Message(content, reply_to=message)

    @staticmethod
    def _train(message: Message, context: Context) -> Message:
        arrays = ndarrays_to_parameters([update_of(context.node_id)])
        fitted = FitRes(Status(Code.OK, ""), arrays, EXAMPLES, {"loss": float(context.node_id)})
        return Message(compat.fitres_to_recorddict(fitted, keep_input=False), reply_to=message)

    def set_run(self, run: Run) -> None: ...

    @property
    def run(self) -> Run:
        return Run.create_empty(1)

    def get_node_ids(self) -> Iterable[int]:
        return list(self.contexts)

    def create_message(self, *_: Any, **__: Any) -> Message:
        raise AssertionError("the workflow sends and receives at once")

    push_messages = pull_messages = create_message


def _first_of_each(answer: ConfigRecord) -> ConfigRecord:
    """An answer without the second share of a node: the lying server keeps that, and its workflow goes on."""
    if Key.SHARE_LIST not in answer:
        return answer
    first: dict[Any, Any] = {}
    for node, share in zip(answer[Key.NODE_ID_LIST], answer[Key.SHARE_LIST], strict=True):
        first.setdefault(node, share)
    return ConfigRecord({Key.NODE_ID_LIST: list(first), Key.SHARE_LIST: list(first.values())})


def run_round(nodes: Sequence[int], threshold: int, meddle: Meddle) -> tuple[Nodes, NDArray[np.float64] | None]:
    """A round of Flower's workflow: its grid, and the mean that it makes, None where it makes none."""
    grid = Nodes(nodes, meddle)
    manager = SimpleClientManager()
    for node in nodes:
        manager.register(GridClientProxy(node, grid, 1))
    strategy = FedAvg(min_fit_clients=len(nodes), min_available_clients=len(nodes))
    state = RecordDict({"config": ConfigRecord({"current_round": 1})})
    state["parameters"] = compat.parameters_to_arrayrecord(
        ndarrays_to_parameters([np.zeros(SIZE, np.float32)]), keep_input=False
    )
    context = LegacyContext(Context(1, 1, {}, state, {}), ServerConfig(1), strategy, manager)
    workflow = SecAggPlusWorkflow(
        len(nodes),
        threshold,
        max_weight=MAX_WEIGHT,
        clipping_range=CLIPPING,
        quantization_range=TARGET,
        modulus_range=MODULUS,
    )
    before = context.state.array_records["parameters"]
    workflow(grid, context)
    after = context.state.array_records["parameters"]
    if after is before:
        return grid, None
    [mean] = parameters_to_ndarrays(compat.arrayrecord_to_parameters(after, keep_input=True))
    return grid, mean


def in_order(node: int, stage: str, config: ConfigRecord) -> bool:
    return True


def masked_of(grid: Nodes, node: int) -> U32:
    """The words that a client sent: its weight, then its update."""
    arrays = parameters_to_ndarrays(
        compat.Parameters(list(grid.answers[Stage.COLLECT_MASKED_VECTORS][node][Key.MASKED_PARAMETERS]), "")
    )
    return np.concatenate([one.ravel() for one in arrays]).astype(np.uint32)


def mask_of(seed: bytes) -> U32:
    return np.concatenate([one.ravel() for one in pseudo_rand_gen(seed, MODULUS, [(1,), (SIZE,)])]).astype(np.uint32)


def update_in(words: U32) -> NDArray[np.float64]:
    """What Flower's server makes of unmasked words."""
    values = words[1:].astype(np.float64) * (2 * CLIPPING / TARGET) - CLIPPING
    return values * (TARGET / float(words[0]))


# -- 1. one request ---------------------------------------------------------------------------------------------------


def one_request() -> dict[str, Any]:
    """The update of one client of ten, out of answers to one changed request to unmask."""
    nodes, threshold, victim = list(range(101, 111)), 7, 105

    def alive_and_dead(node: int, stage: str, config: ConfigRecord) -> bool:
        if stage == Stage.UNMASK:
            config[Key.DEAD_NODE_ID_LIST] = [*config[Key.DEAD_NODE_ID_LIST], victim]
        return True

    grid, mean = run_round(nodes, threshold, alive_and_dead)
    plain = np.mean([update_of(node) for node in nodes], axis=0)
    own: list[bytes] = []
    key: list[bytes] = []
    for answer in grid.answers[Stage.UNMASK].values():
        named = list(zip(answer[Key.NODE_ID_LIST], answer[Key.SHARE_LIST], strict=True))
        first, second = [share for node, share in named if node == victim]
        own.append(first)
        key.append(second)
    words = masked_of(grid, victim) - mask_of(combine_shares(own))
    private = bytes_to_private_key(combine_shares(key))
    for node in nodes:
        if node != victim:
            public = grid.answers[Stage.SETUP][node][Key.PUBLIC_KEY_1]
            mask = mask_of(generate_shared_key(private, bytes_to_public_key(public)))
            words = words - mask if victim > node else words + mask
    off = float(np.abs(update_in(words) - update_of(victim)).max())
    refused = len(nodes) - len(grid.answers[Stage.UNMASK])
    return {
        "clients": len(nodes),
        "refused": refused,
        "largest_error": off,
        "step": STEP,
        "mean_is_right": mean is not None and float(np.abs(mean - plain).max()) <= STEP,
    }


# -- 2. seeds of 28 bits -----------------------------------------------------------------------------------------------

_BLOCK = 1 << 14
_WORDS = 6
"""Words of a mask that a seed is judged by; each must leave a number of 22 bits, so that about one in 2^60 passes."""


def first_words(seeds: U32) -> list[U32]:
    """The first outputs of MT19937 from each seed (Matsumoto and Nishimura 1998), as `numpy.random.RandomState`'s."""
    state, kept = seeds.copy(), {0: seeds}
    shifted = np.empty_like(state)
    for index in range(1, 397 + _WORDS):
        np.right_shift(state, 30, out=shifted)
        np.bitwise_xor(state, shifted, out=state)
        np.multiply(state, np.uint32(1812433253), out=state)
        np.add(state, np.uint32(index), out=state)
        if index <= _WORDS or index >= 397:
            kept[index] = state.copy()
    return [_tempered(kept, index) for index in range(_WORDS)]


def _tempered(kept: dict[int, U32], index: int) -> U32:
    joined = (kept[index] & np.uint32(0x80000000)) | (kept[index + 1] & np.uint32(0x7FFFFFFF))
    word = kept[index + 397] ^ (joined >> np.uint32(1)) ^ ((joined & np.uint32(1)) * np.uint32(0x9908B0DF))
    word ^= word >> np.uint32(11)
    word ^= (word << np.uint32(7)) & np.uint32(0x9D2C5680)
    word ^= (word << np.uint32(15)) & np.uint32(0xEFC60000)
    return word ^ (word >> np.uint32(18))


def spread(numbers: NDArray[np.uint32]) -> U32:
    """28-bit numbers as seeds: four bytes of seven bits, since the text that is folded is ASCII."""
    made = np.zeros_like(numbers)
    for place in range(4):
        made |= ((numbers >> np.uint32(7 * place)) & np.uint32(0x7F)) << np.uint32(8 * place)
    return made


def search(words: U32, begin: int, end: int) -> list[int]:
    """The 28-bit numbers from `begin` to `end` whose mask leaves a small weight and a small first few values."""
    found: list[int] = []
    for start in range(begin, end, _BLOCK):
        numbers = np.arange(start, min(start + _BLOCK, end), dtype=np.uint32)
        fits = np.ones(numbers.size, dtype=bool)
        for word, mask in zip(words, first_words(spread(numbers)), strict=False):
            fits &= (np.uint32(word) - mask) <= np.uint32(TARGET)
        found += numbers[fits].tolist()
    return found


def folded(seed: bytes) -> int:
    """The 28-bit number of a seed."""
    words = np.frombuffer(seed, dtype="<u4")
    value = int(np.bitwise_xor.reduce(words))
    assert value & 0x80808080 == 0
    return sum(((value >> 8 * place) & 0x7F) << 7 * place for place in range(4))


def short_seeds(*, whole: bool, sample: int = 1 << 22) -> dict[str, Any]:
    """The updates of two honest clients of three, with what the third knows, by a search for the seed they share."""
    nodes, helper = [101, 102, 103], 103
    low, high = 101, 102
    grid, _ = run_round(nodes, 2, in_order)
    state = grid.contexts[helper].state.config_records
    secret = bytes_to_private_key(next(iter(state.values()))["sk1"])
    shares: dict[int, list[bytes]] = {node: [] for node in nodes}
    for answer in grid.answers[Stage.UNMASK].values():
        for node, share in zip(answer[Key.NODE_ID_LIST], answer[Key.SHARE_LIST], strict=True):
            shares[int(node)].append(share)
    left = {}
    for node in (low, high):  # what is left of it under one mask: the server opened the other, the helper knows its own
        public = grid.answers[Stage.SETUP][node][Key.PUBLIC_KEY_1]
        with_helper = mask_of(generate_shared_key(secret, bytes_to_public_key(public)))
        left[node] = masked_of(grid, node) - mask_of(combine_shares(shares[node])) + with_helper
    # Flower adds the pair's mask where the own number is larger: `high` has q + mask, `low` has q - mask
    pair = _pair_seed(grid, low, high)
    truth = folded(pair)
    begin, end = (0, 1 << 28) if whole else (truth // sample * sample, truth // sample * sample + sample)
    cpu = time.process_time()
    found = search(left[high], begin, end)
    cpu = time.process_time() - cpu
    [number] = found
    generator = np.random.RandomState(int(spread(np.array([number], np.uint32))[0]))
    mask = np.concatenate([generator.randint(0, MODULUS - 1, one, dtype=np.int64) for one in (1, SIZE)])
    words = mask.astype(np.uint32)
    errors = (update_in(left[high] - words) - update_of(high), update_in(left[low] + words) - update_of(low))
    return {
        "right_seed_found": number == truth,
        "searched": end - begin,
        "cpu_s": cpu,
        "cpu_s_of_all_2^28": cpu * 2**28 / (end - begin),
        "largest_error": float(max(np.abs(one).max() for one in errors)),
        "step": STEP,
    }


def _pair_seed(grid: Nodes, low: int, high: int) -> bytes:
    """The right one, by the clients' own keys: where the sample is to be, and what the search must find."""
    secret = bytes_to_private_key(next(iter(grid.contexts[low].state.config_records.values()))["sk1"])
    public = grid.answers[Stage.SETUP][high][Key.PUBLIC_KEY_1]
    return generate_shared_key(secret, bytes_to_public_key(public))


# -- 3. a drop-out before the shares -----------------------------------------------------------------------------------


def early_dropout() -> dict[str, Any]:
    """What becomes of a round of ten in which one client is gone from its second message on; and without that."""
    nodes = list(range(101, 111))

    def gone(node: int, stage: str, config: ConfigRecord) -> bool:
        return node != 105 or stage == Stage.SETUP

    _, whole = run_round(nodes, 7, in_order)
    grid, mean = run_round(nodes, 7, gone)
    return {
        "mean_without_dropout": whole is not None,
        "mean": mean is not None,
        "key_errors": sum(error.startswith("KeyError") for error in grid.errors),
        "clients_left": len(nodes) - 1,
    }


# -- 4. what is not masked ---------------------------------------------------------------------------------------------


def in_clear() -> dict[str, Any]:
    """How many clients' number of examples and metric the server has, after a round as it should be."""
    grid, _ = run_round(list(range(101, 111)), 7, in_order)
    seen = [node for node, one in grid.clear.items() if (one.num_examples, one.metrics["loss"]) == (EXAMPLES, node)]
    return {"clients": len(grid.clear), "seen": len(seen)}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0], allow_abbrev=False)
    parser.add_argument("--all-seeds", action="store_true", help="search all 2^28 seeds, under a minute")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "flower_secagg_attacks.json", help="JSON")
    args = parser.parse_args(arguments)
    import logging

    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    found = {
        "one_request": one_request(),
        "short_seeds": short_seeds(whole=args.all_seeds),
        "early_dropout": early_dropout(),
        "in_clear": in_clear(),
    }
    request, seeds, dropout, clear = found.values()
    holds = {
        f"an update of {request['clients']} recovered to {request['largest_error']:.2g}, its rounding being "
        f"{request['step']:.2g}; {request['refused']} clients refused": request["largest_error"] <= 1.01 * STEP
        and request["mean_is_right"]
        and not request["refused"],
        f"a pair's seed found among {seeds['searched']:,} in {seeds['cpu_s']:.3g} CPU s: all 2^28 take "
        f"{seeds['cpu_s_of_all_2^28']:.3g}; both updates recovered to {seeds['largest_error']:.2g}": seeds[
            "right_seed_found"
        ]
        and seeds["largest_error"] <= 1.01 * STEP,
        f"a drop-out before the shares: no mean, and a KeyError at {dropout['key_errors']} of "
        f"{dropout['clients_left']} clients": dropout["mean_without_dropout"]
        and not dropout["mean"]
        and dropout["key_errors"] > 0,
        f"numbers of examples and metrics of {clear['seen']} of {clear['clients']} clients in clear": clear["seen"]
        == clear["clients"]
        > 0,
    }
    print(f"flwr {version('flwr')}, SecAgg+")
    for claim, true in holds.items():
        print(f"{'holds' if true else 'NO LONGER'}: {claim}")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps({"flwr": version("flwr"), **found}, indent=1) + "\n", encoding="utf-8")
    return 0 if all(holds.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
