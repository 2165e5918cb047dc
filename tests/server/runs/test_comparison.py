"""The comparison of models: what is averaged over what, the bootstrap, and its JSON."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score, root_mean_squared_error

from wardround.errors import LocalError
from wardround.orders import SiteId
from wardround.plan_sections import Target
from wardround.server.runs.comparison import Comparison, Model, Predictions, compare
from wardround.vector import F64

DIAGNOSIS = Target(name="diagnosis", classes=("benign", "malignant"))
A, B, C = (SiteId(name) for name in "abc")


def noisy(y: F64, seed: int, noise: float) -> F64:
    """Probabilities that know `y` but for the noise."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    return 1 / (1 + np.exp(-(4 * y - 2 + generator.normal(0, noise, len(y)))))


def example() -> Predictions:
    """Hospitals a, b and c with 40, 0 and 60 rows; b has no model of its own."""
    y = np.tile([0.0, 1.0, 1.0, 0.0], 25)
    return Predictions(
        sites=(A, B, C),
        sizes=(40, 0, 60),
        y=y,
        federated=noisy(y, 1, 2.0),
        pooled=noisy(y, 2, 1.5),
        alone={A: noisy(y, 3, 4.0), C: noisy(y, 4, 5.0)},
    )


def compared(
    predictions: Predictions, *, resamples: int = 300, seed: int = 5, target: Target = DIAGNOSIS
) -> Comparison:
    found = compare(target, predictions, resamples=resamples, seed=seed)
    assert found is not None
    return found


def test_scores_are_those_of_the_rows() -> None:
    given, found = example(), compared(example())
    y = given.y
    assert (found.primary, found.test_rows, found.alone_models) == ("auc", 100, 2)
    assert found.overall["federated"]["auc"].value == pytest.approx(roc_auc_score(y, given.federated))
    alone = [roc_auc_score(y, scores) for scores in given.alone.values()]
    assert found.overall["alone"]["auc"].value == pytest.approx(np.mean(alone))
    assert [site.site for site in found.sites] == ["a", "c"]
    first, last = found.sites
    assert first.own["alone"]["auc"].value == pytest.approx(roc_auc_score(y[:40], given.alone[A][:40]))
    assert last.own["federated"]["accuracy"].value == accuracy_score(y[40:], given.federated[40:] > 0.5)
    assert last.elsewhere["auc"].value == pytest.approx(alone[1])
    assert found.own["pooled"]["auc"].value == pytest.approx(
        np.mean([site.own["pooled"]["auc"].value for site in found.sites])
    )


def test_gains_are_differences() -> None:
    found = compared(example())
    for other in ("alone", "pooled"):
        for name, gain in found.gain[other].items():
            assert gain.value == pytest.approx(
                found.overall["federated"][name].value - found.overall[other][name].value
            )
            own = [site.gain[other][name].value for site in found.sites]
            assert found.own_gain[other][name].value == pytest.approx(np.mean(own))


def test_the_paired_interval_of_a_difference_is_narrower_where_models_err_alike() -> None:
    given = example()
    twin = Predictions(
        sites=given.sites, sizes=given.sizes, y=given.y, federated=given.federated, pooled=given.federated, alone={}
    )
    gain = compared(twin).gain["pooled"]["auc"]
    assert (gain.value, gain.low, gain.high) == (0, 0, 0)


def test_intervals_are_those_of_a_plain_bootstrap_within_hospitals() -> None:
    given, found = example(), compared(example(), resamples=2000)
    generator = np.random.Generator(np.random.Philox(key=99))
    areas = []
    for _ in range(2000):
        rows = np.concatenate((generator.integers(0, 40, 40), generator.integers(40, 100, 60)))
        y, scores = given.y[rows], given.federated[rows]
        areas.append((scores[y == 1][:, None] > scores[y == 0]).mean())
    estimate = found.overall["federated"]["auc"]
    assert (estimate.low, estimate.high) == pytest.approx(np.quantile(areas, (0.025, 0.975)), abs=0.01)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    generator = np.random.Generator(np.random.Philox(key=17))
    target, covered, trials = Target(name="dose", range=(0, 100)), 0, 200
    for trial in range(trials):
        y = generator.normal(50, 10, 120)
        predictions = Predictions(
            sites=(A,), sizes=(120,), y=y, federated=y + generator.normal(0, 7, 120), pooled=None, alone={}
        )
        rmse = compared(predictions, resamples=200, seed=trial, target=target).overall["federated"]["rmse"]
        assert rmse.low is not None and rmse.high is not None
        covered += rmse.low <= 7 <= rmse.high
    assert 0.86 * trials <= covered <= 0.99 * trials


def test_the_same_seed_gives_the_same_intervals_and_another_does_not() -> None:
    assert compared(example()) == compared(example())
    assert compared(example(), seed=6).overall["federated"]["auc"] != compared(example()).overall["federated"]["auc"]


def test_pieces_of_resamples_are_judged_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wardround.server.runs.comparison._CHUNK_CELLS", 100 * 64)
    found = compared(example(), resamples=1000)
    reference = example()
    assert found.overall["federated"]["auc"].value == pytest.approx(roc_auc_score(reference.y, reference.federated))
    low, high = found.overall["federated"]["auc"].low, found.overall["federated"]["auc"].high
    assert low is not None and high is not None and low < high


def test_fewer_resamples_where_there_is_much_to_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wardround.server.runs.comparison._ALL_CELLS", 100 * 4 * 2 * 150)
    assert compared(example(), resamples=1000).resamples == 150


def test_no_intervals_when_none_are_wanted() -> None:
    found = compared(example(), resamples=0)
    assert found.resamples == 0
    assert all(one.low is None and one.high is None for one in found.overall["federated"].values())


def test_a_hospital_of_one_class_has_no_auc_and_the_mean_leaves_it_out() -> None:
    y = np.concatenate((np.tile([0.0, 1.0], 20), np.zeros(10)))
    found = compared(Predictions(sites=(A, C), sizes=(40, 10), y=y, federated=noisy(y, 1, 2), pooled=None, alone={}))
    assert "auc" not in found.sites[1].own["federated"]
    assert "specificity" in found.sites[1].own["federated"]
    assert found.own["federated"]["auc"].value == found.sites[0].own["federated"]["auc"].value
    assert Model.ALONE not in found.overall


def test_an_interval_needs_resamples_that_define_the_metric() -> None:
    y = np.array([0.0] * 200 + [1.0])
    found = compared(Predictions(sites=(A,), sizes=(201,), y=y, federated=noisy(y, 1, 2), pooled=None, alone={}))
    assert found.overall["federated"]["auc"].low is not None  # drawn in 63 % of resamples
    y = np.array([0.0, 1.0])
    found = compared(Predictions(sites=(A,), sizes=(2,), y=y, federated=y * 0.5, pooled=None, alone={}))
    assert (found.overall["federated"]["auc"].value, found.overall["federated"]["auc"].low) == (1.0, None)


def test_regression_and_many_classes() -> None:
    generator = np.random.Generator(np.random.Philox(key=2))
    y = generator.normal(150, 50, 50)
    predictions = Predictions(sites=(A,), sizes=(50,), y=y, federated=y + 5, pooled=y + 10, alone={A: y + 20})
    found = compared(predictions, target=Target(name="progression", range=(25, 346)))
    assert {model: scores["rmse"].value for model, scores in found.overall.items()} == pytest.approx(
        {"federated": 5, "pooled": 10, "alone": 20}
    )
    assert found.overall["alone"]["rmse"].value == pytest.approx(root_mean_squared_error(y, y + 20))
    assert (found.roc, found.confusion, len(found.calibration)) == ((), (), 2)
    labels = generator.integers(0, 3, 60).astype(np.float64)
    scores = generator.dirichlet(np.ones(3), 60)
    several = compared(
        Predictions(sites=(A,), sizes=(60,), y=labels, federated=scores, pooled=None, alone={}),
        target=Target(name="digit", classes=("0", "1", "2")),
    )
    assert several.overall["federated"]["accuracy"].value == accuracy_score(labels, scores.argmax(axis=1))
    assert sum(map(sum, several.confusion)) == 60


def test_json_reads_back_to_the_same() -> None:
    found = compared(example())
    assert Comparison.from_json(found.to_json()) == found


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kind": "binary"}', '{"kind": "other", "primary": "auc"}'])
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(LocalError, match="results: "):
        Comparison.from_json(text)


def test_no_test_rows_no_comparison() -> None:
    nothing = np.zeros(0)
    given = Predictions(sites=(A,), sizes=(0,), y=nothing, federated=nothing, pooled=None, alone={})
    assert compare(DIAGNOSIS, given, resamples=10, seed=1) is None


def test_predictions_must_fit_their_rows() -> None:
    with pytest.raises(ValueError, match="each of 3 rows"):
        Predictions(sites=(A,), sizes=(3,), y=np.zeros(3), federated=np.zeros(2), pooled=None, alone={})
    with pytest.raises(ValueError, match="'b'"):
        Predictions(sites=(A,), sizes=(1,), y=np.zeros(1), federated=np.zeros(1), pooled=None, alone={B: np.zeros(1)})
