"""Without the clip, the noise or the reservation a named test fails: each is taken out here, and its test is run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.client.trainer import test_private_trainer
from tests.simulations import test_private_simulation
from tests.strategies import test_private_rounds
from wardround.client.guard import guard
from wardround.client.trainer.private_gradient import PrivateGradient
from wardround.client.trainer.private_workspace import PrivateWorkspace
from wardround.strategies.privacy import private_mean
from wardround.strategies.privacy.books import Books
from wardround.strategies.privacy.noise_source import FreshNoise
from wardround.vector import I64


def fails(check: Callable[..., None], *arguments: Any) -> bool:
    """Whether a test that passes does so no more."""
    try:
        check(*arguments)
    except (AssertionError, RuntimeWarning, pytest.fail.Exception):
        return True
    return False


def test_without_the_servers_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    check = test_private_rounds.test_a_clip_bounds_what_a_site_and_a_liar_add
    assert not fails(check)
    monkeypatch.setattr(private_mean, "factor", lambda square, bound: 1.0)
    monkeypatch.setattr(guard, "clip_update", lambda update, clip_norm, layers=None: update)
    assert fails(check)


def test_without_the_servers_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    check = test_private_rounds.test_the_noise_is_the_claimed_one
    assert not fails(check)

    def silence(self: FreshNoise, size: int) -> I64:
        return np.zeros(size, dtype=np.int64)

    monkeypatch.setattr(FreshNoise, "draw", silence)
    assert fails(check)


def test_without_the_clip_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    check = test_private_trainer.test_a_row_of_a_huge_gradient_moves_the_update_by_the_clip_norm_over_the_batch_at_most
    assert not fails(check)
    begin = PrivateGradient.__init__

    def unbounded(self: PrivateGradient, *arguments: Any, **named: Any) -> None:
        begin(self, *arguments, **named)
        self._limit = 1e30

    monkeypatch.setattr(PrivateGradient, "__init__", unbounded)
    assert fails(check)


def test_without_the_noise_on_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    check = test_private_trainer.test_the_noise_of_the_released_sum_has_the_claimed_size_and_is_normal_and_independent
    assert not fails(check)

    def silence(self: PrivateWorkspace, terms: Any, random: Any) -> None:
        self._mean_gradient.copy_(self._sum / terms.drawn)

    monkeypatch.setattr(PrivateWorkspace, "_add_noise", silence)
    assert fails(check)


def test_without_the_reservation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check = test_private_simulation.test_shared_ledgers_stop_the_job_that_would_exceed_them
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    assert not fails(check, tmp_path / "with")
    monkeypatch.setattr(Books, "fits", lambda self, total: True)
    assert fails(check, tmp_path / "without")
