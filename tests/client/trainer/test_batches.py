import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wardround.client.trainer.batches import Batches, seed_array, shuffled
from wardround.plan_sections import Training

SEEDS = st.integers(0, 2**63 - 1)


@given(st.lists(SEEDS, min_size=1, max_size=5), st.integers(0, 1000), st.integers(1, 60))
def test_every_row_of_every_client_comes_once(seeds: list[int], epoch: int, rows: int) -> None:
    order = shuffled(seed_array(*seeds), epoch, rows)
    assert (np.sort(order, axis=1) == np.arange(rows)).all()


@given(st.lists(SEEDS, min_size=2, max_size=5), st.integers(0, 10), st.integers(1, 60))
def test_a_client_is_shuffled_alike_alone_and_in_a_block(seeds: list[int], epoch: int, rows: int) -> None:
    together = shuffled(seed_array(*seeds), epoch, rows)
    alone = [shuffled(seed_array(seed), epoch, rows)[0] for seed in seeds]
    assert (together == np.array(alone)).all()


def test_places_are_uniform_and_epochs_and_neighbouring_seeds_unrelated() -> None:
    rows, seeds = 10, 4000
    orders = np.stack([shuffled(seed_array(*range(seeds)), epoch, rows) for epoch in (0, 1)])
    counts = np.stack([(orders[0] == row).sum(0) for row in range(rows)])
    chi_square = ((counts - seeds / rows) ** 2 / (seeds / rows)).sum()
    assert chi_square < 130  # 81 degrees of freedom: p < 0.0005
    assert abs((orders[0] == orders[1]).mean() - 1 / rows) < 0.01
    assert abs((orders[0][1:] == orders[0][:-1]).mean() - 1 / rows) < 0.01


def test_seeds_of_any_size_are_taken() -> None:
    assert seed_array(2**64 + 3, -1).tolist() == [3, 2**64 - 1]


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 30), st.data())
def test_steps_cover_epoch_after_epoch(rows: int, batch_size: int, steps: int, data: st.DataObject) -> None:
    batches = Batches.of(Training(batch_size=batch_size, steps=steps), rows)
    index, sizes = batches.index(seed_array(5), 0, steps)[0], batches.sizes(0, steps)
    taken = np.concatenate([places[:size] for places, size in zip(index, sizes, strict=True)])
    assert len(taken) == batches.num_examples == sizes.sum()
    for epoch in range(len(taken) // rows):
        expected = shuffled(seed_array(5), epoch, rows)[0]
        assert (taken[epoch * rows : (epoch + 1) * rows] == expected).all()
    start = data.draw(st.integers(0, steps - 1))
    stop = data.draw(st.integers(start + 1, steps))
    assert (batches.index(seed_array(5), start, stop)[0] == index[start:stop]).all()
    assert (batches.sizes(start, stop) == sizes[start:stop]).all()


def test_epochs_keep_the_last_smaller_batch() -> None:
    batches = Batches.of(Training(batch_size=4, epochs=2), 10)
    assert batches.sizes(0, batches.steps).tolist() == [4, 4, 2, 4, 4, 2]
    assert Batches.of(Training(batch_size=32), 10) == Batches(rows=10, batch_size=10, steps=1)
