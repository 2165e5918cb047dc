import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from wardround.errors import LocalError
from wardround.orders import SiteId, Statistics
from wardround.server.runs.checkpoint import Checkpoint, decode_checkpoint, encode_checkpoint
from wardround.server.runs.tensor_file import decode_tensors, encode_tensors
from wardround.strategies.records import RunState
from wardround.strategies.reputation import Reputation, Standing

vectors = arrays.arrays(np.float32, st.integers(0, 9), elements=st.floats(width=32))
anything = arrays.arrays(
    st.sampled_from([np.float32, np.float64, np.int64, np.bool_]), arrays.array_shapes(min_dims=0, min_side=0)
)
finite = st.floats(allow_nan=False, allow_infinity=False)
site_ids = st.text(st.characters(exclude_categories=["Cs"])).map(SiteId)
standings = st.builds(
    lambda suspicion, seen, groups: Standing(suspicion=suspicion, seen=seen, flagged=seen, groups=groups),
    st.floats(0, 1),
    st.integers(0, 99),
    st.lists(st.lists(site_ids, min_size=1, max_size=2).map(tuple), min_size=1, max_size=2).map(tuple),
)
reputations = st.builds(
    Reputation,
    standings=st.dictionaries(site_ids, standings, max_size=3),
    quarantined=st.dictionaries(site_ids, st.integers(0, 99), max_size=2),
    notes=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=2).map(tuple),
)
states = st.builds(
    RunState,
    round=st.integers(0, 10**9),
    model=vectors,
    optimizer=st.dictionaries(st.text(), arrays.arrays(np.float64, st.integers(0, 9), elements=st.floats())),
    rule_memory=st.dictionaries(st.text(), arrays.arrays(np.float64, st.integers(0, 9), elements=st.floats())),
    reputation=reputations,
    statistics=st.none() | st.builds(lambda m, s: Statistics(mean=(m,), std=(s,)), finite, st.floats(5e-324, 1e308)),
    best_round=st.integers(0, 10**9),
    best_loss=st.none() | finite,
    best_model=st.none() | vectors,
    evaluations_without_gain=st.integers(0, 99),
    void_rounds=st.integers(0, 99),
    stopped=st.text(),
)
names = st.text(st.characters(exclude_categories=["Cs"]))
checkpoints = st.builds(
    Checkpoint,
    run_id=st.text("0123456789abcdef"),
    plan_digest=st.text("0123456789abcdef"),
    state=states,
    sites=st.dictionaries(names.map(SiteId), st.dictionaries(names, anything, max_size=2), max_size=3),
)


def same(a: NDArray[np.generic], b: NDArray[np.generic]) -> bool:
    return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


@given(checkpoints)
def test_every_bit_returns_and_equal_checkpoints_have_equal_bytes(checkpoint: Checkpoint) -> None:
    data = encode_checkpoint(checkpoint)
    back = decode_checkpoint(data, "x")
    assert encode_checkpoint(back) == data == encode_checkpoint(checkpoint)
    assert same(back.state.model, checkpoint.state.model)
    assert (back.state.best_model is None) == (checkpoint.state.best_model is None)
    assert back.state.optimizer.keys() == checkpoint.state.optimizer.keys()
    assert all(same(back.state.optimizer[name], array) for name, array in checkpoint.state.optimizer.items())
    assert back.state.rule_memory.keys() == checkpoint.state.rule_memory.keys()
    assert all(same(back.state.rule_memory[name], array) for name, array in checkpoint.state.rule_memory.items())
    assert back.state.reputation == checkpoint.state.reputation
    assert list(back.sites) == list(checkpoint.sites)
    for site, own in checkpoint.sites.items():
        assert back.sites[site].keys() == own.keys()
        assert all(same(back.sites[site][name], array) for name, array in own.items())
    for name in ("round", "statistics", "best_round", "best_loss", "evaluations_without_gain", "void_rounds"):
        assert getattr(back.state, name) == getattr(checkpoint.state, name), name
    assert (back.run_id, back.plan_digest, back.state.stopped) == (
        checkpoint.run_id,
        checkpoint.plan_digest,
        checkpoint.state.stopped,
    )


def test_restored_arrays_can_be_written_to() -> None:
    state = RunState(round=1, model=np.zeros(3, dtype=np.float32), optimizer={"m": np.zeros(3)})
    back = decode_checkpoint(encode_checkpoint(Checkpoint(run_id="", plan_digest="", state=state)), "x").state
    back.model[0] += 1
    back.optimizer["m"][0] += 1
    assert back.model[0] == back.optimizer["m"][0] == 1


@given(st.data())
def test_what_is_cut_or_changed_in_its_header_is_refused_by_name(data: st.DataObject) -> None:
    state = RunState(round=1, model=np.arange(30, dtype=np.float32))
    whole = encode_checkpoint(Checkpoint(run_id="a", plan_digest="b", state=state))
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(LocalError, match=r"^round-7: expected "):
        decode_checkpoint(whole[:cut], "round-7")


@pytest.mark.parametrize("array", [np.zeros(3), np.zeros((2, 2), dtype=np.float32)])
def test_a_file_of_something_else_is_refused(array: NDArray[np.generic]) -> None:
    with pytest.raises(LocalError, match="expected a checkpoint"):
        decode_checkpoint(encode_tensors({"model": array}, {"format": 1}), "x")
    state = RunState(round=1, model=np.zeros(3, dtype=np.float32), best_model=array)  # type: ignore[arg-type]
    data = encode_checkpoint(Checkpoint(run_id="", plan_digest="", state=state))
    with pytest.raises(LocalError, match=r"expected a checkpoint made by wardround.*float32 vector"):
        decode_checkpoint(data, "x")


@pytest.mark.parametrize(
    "reputation",
    [None, [], {}, {"standings": {"a": {}}, "quarantined": {}, "notes": []}, {"standings": {}, "notes": []}],
)
def test_a_strange_reputation_is_refused_by_name(reputation: object) -> None:
    state = RunState(round=1, model=np.zeros(3, dtype=np.float32))
    tensors, metadata = decode_tensors(encode_checkpoint(Checkpoint(run_id="", plan_digest="", state=state)), "x")
    data = encode_tensors(tensors, {**metadata, "reputation": reputation})
    with pytest.raises(LocalError, match=r"^round-7: expected a checkpoint made by wardround"):
        decode_checkpoint(data, "round-7")
