import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from wardround.plan_privacy import Relation, Unit
from wardround.strategies.privacy.accounting import epsilon_of
from wardround.strategies.privacy.books import Books, Cost, JobCharge, Total
from wardround.strategies.privacy.events import Event, FixedSizeGaussian, Gaussian, PoissonGaussian

ADD_REMOVE, ZERO_OUT, REPLACE_ONE = Relation.ADD_REMOVE, Relation.ZERO_OUT, Relation.REPLACE_ONE
DELTA = 1e-5
CAPS = [(0.1, 1e-6), (1.0, 1e-5), (3.0, 1e-6), (8.0, 1e-5), (50.0, 1e-4)]


def books(
    epsilon: float = 3.0, delta: float = DELTA, relation: Relation = ADD_REMOVE, unit: Unit = Unit.PATIENT
) -> Books:
    return Books.at(epsilon=epsilon, delta=delta, unit=unit, relation=relation)


def gaussian(noise: float, count: int = 1, relation: Relation = ADD_REMOVE) -> Gaussian:
    return Gaussian(noise_std=noise, sensitivity=1.0, relation=relation, count=count)


def poisson(noise: float, rate: float, count: int = 1, relation: Relation = ADD_REMOVE) -> PoissonGaussian:
    return PoissonGaussian(noise_std=noise, sensitivity=1.0, relation=relation, rate=rate, count=count)


def charge(
    *per_round: Event, rounds: int = 1, once: Sequence[Event] = (), whole: bool = False, delta: float = 1e-6
) -> JobCharge:
    return JobCharge(
        job="job",
        plan_digest="digest",
        unit=Unit.PATIENT,
        once=tuple(once),
        per_round=per_round,
        rounds=rounds,
        whole=whole,
        delta=delta,
    )


def true_delta(events: Sequence[Gaussian], epsilon: float) -> float:
    """Of Gaussian events, by the closed form of Balle & Wang in scipy's normal distribution: none of our code."""
    mu = math.sqrt(math.fsum(event.count * (event.sensitivity / event.noise_std) ** 2 for event in events))
    if mu == 0:
        return 0.0
    far = norm.logcdf(-epsilon / mu + mu / 2)
    return float(np.exp(far) - np.exp(epsilon + norm.logcdf(-epsilon / mu - mu / 2)))


@dataclass
class Job:
    asked: JobCharge
    cost: Cost
    begun: int = 0
    closed: bool = False

    @property
    def released(self) -> list[Event]:
        rounds = min(self.begun, 1) if self.asked.whole else self.begun
        return [*self.asked.once, *(replace(event, count=rounds * event.count) for event in self.asked.per_round)]


@dataclass
class Population:
    """A ledger without a file: the books, and jobs as an adversary drives them."""

    books: Books
    jobs: list[Job] = field(default_factory=list)

    @property
    def total(self) -> Total:
        return self.books.total(job.cost.of(job.begun) if job.closed else job.cost.worst for job in self.jobs)

    def reserve(self, asked: JobCharge) -> bool:
        cost = self.books.cost(asked, self.total)
        if not self.books.fits(self.total + cost.worst):
            return False
        self.jobs.append(Job(asked, cost))
        return True

    @property
    def released(self) -> list[Event]:
        return [event for job in self.jobs for event in job.released]


@pytest.mark.parametrize(("epsilon", "delta"), CAPS)
def test_the_deltas_of_the_books_sum_to_the_cap(epsilon: float, delta: float) -> None:
    made = books(epsilon, delta)
    shares = [made.rdp_delta] * len(made.orders) + [made.gaussian_delta, made.basic_delta]
    assert math.fsum(shares) == pytest.approx(delta, rel=1e-14)


@pytest.mark.parametrize(("epsilon", "delta"), CAPS)
def test_each_book_alone_is_a_filter_at_its_own_delta(epsilon: float, delta: float) -> None:
    """What it admits of the worst mechanism for it, a Gaussian, has at most this delta at the cap's epsilon."""
    made = books(epsilon, delta)
    for at in range(len(made.orders) + 1):
        low, high = 0.0, 100.0  # of μ
        for _ in range(60):
            mu = (low + high) / 2
            cost = made.cost(charge(gaussian(1 / mu)), made.nothing).worst
            low, high = (mu, high) if made.standings(cost)[at].fits else (low, mu)
        share = made.standings(made.nothing)[at].delta
        assert true_delta([gaussian(1 / low)], epsilon) <= share
        if at == len(made.orders):  # exact, so that nothing is left over
            assert true_delta([gaussian(1 / low)], epsilon) > 0.999 * share


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_an_adversary_asks_for_next_nothing_is_released_over_the_cap(data: st.DataObject) -> None:
    """By an independent accountant, after every step; jobs run side by side, stop early and are followed by others."""
    epsilon = data.draw(st.sampled_from([0.5, 2.0, 8.0]))
    site = Population(books(epsilon))
    for _ in range(data.draw(st.integers(1, 25))):
        open_jobs = [job for job in site.jobs if not job.closed]
        action = data.draw(st.sampled_from(["reserve", "reserve", "begin", "close"] if open_jobs else ["reserve"]))
        if action == "reserve":
            noise = data.draw(st.floats(0.3, 60))
            site.reserve(
                charge(
                    gaussian(noise, data.draw(st.integers(1, 3))),
                    rounds=data.draw(st.integers(1, 20)),
                    once=[gaussian(3 * noise)] if data.draw(st.booleans()) else (),
                    whole=data.draw(st.booleans()),
                    delta=data.draw(st.sampled_from([1e-8, 1e-6, 1e-2])),
                )
            )
        else:
            job = data.draw(st.sampled_from(open_jobs))
            if action == "close":
                job.closed = True
            else:
                job.begun = min(job.asked.rounds, job.begun + data.draw(st.integers(1, 20)))
        released = [event for event in site.released if isinstance(event, Gaussian)]
        assert true_delta(released, epsilon) <= DELTA
        assert site.books.fits(site.total)


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 8.0])
@pytest.mark.parametrize("part", [1.0, 0.5])
def test_an_adversary_who_takes_all_that_is_left_again_and_again_stays_under_the_cap(
    epsilon: float, part: float
) -> None:
    site = Population(books(epsilon))
    for _ in range(20):
        low, high = 1e-3, 1e6  # noise; `high` fits, if anything does
        for _ in range(40):
            noise = math.sqrt(low * high)
            worst = site.books.cost(charge(gaussian(noise)), site.total).worst
            low, high = (low, noise) if site.books.fits(site.total + worst) else (noise, high)
        if not site.reserve(charge(gaussian(high / part))):
            break
        site.jobs[-1].begun, site.jobs[-1].closed = 1, True
    released = [event for event in site.released if isinstance(event, Gaussian)]
    assert 0.1 * DELTA < true_delta(released, epsilon) <= DELTA


@pytest.mark.parametrize("relation", [ADD_REMOVE, REPLACE_ONE])
@pytest.mark.parametrize("seed", range(3))
def test_sampled_jobs_stay_under_the_cap_by_dp_accounting(relation: Relation, seed: int) -> None:
    from dp_accounting.pld import privacy_loss_distribution as pld
    from dp_accounting.privacy_accountant import NeighboringRelation

    rng = np.random.default_rng(seed)
    epsilon = [2.0, 4.0, 8.0][seed]
    site = Population(books(epsilon, relation=relation))
    for _ in range(16):
        noise, rate = [(1.0, 0.01), (2.0, 0.05), (3.0, 0.2)][rng.integers(3)]
        asked = charge(poisson(noise, rate, 5), rounds=int(rng.integers(1, 20)), delta=1e-6)
        if site.reserve(asked):
            site.jobs[-1].begun = int(rng.integers(0, asked.rounds + 1))
            site.jobs[-1].closed = True
    assert len(site.jobs) >= 2
    neighbours = NeighboringRelation.REPLACE_ONE if relation is REPLACE_ONE else NeighboringRelation.ADD_OR_REMOVE_ONE
    parts = []
    for event in site.released:
        assert isinstance(event, PoissonGaussian)
        if event.count:
            one = pld.from_gaussian_mechanism(
                event.noise_std,
                sampling_prob=event.rate,
                value_discretization_interval=1e-3,
                neighboring_relation=neighbours,
            )
            parts.append(one.self_compose(event.count))
    composed = reduce(lambda a, b: a.compose(b), parts)
    assert 0 < composed.get_epsilon_for_delta(DELTA) <= epsilon


def test_a_job_is_admitted_by_the_basic_book_when_only_that_one_fits() -> None:
    made = books(1.0)
    asked = charge(poisson(1.0, 0.01, 100))
    worst = made.cost(asked, made.nothing).worst
    assert [standing.book for standing in made.standings(worst) if standing.fits] == ["basic composition"]
    assert made.fits(worst)


def test_many_small_jobs_are_admitted_by_gaussian_dp_after_the_basic_book_is_full() -> None:
    site = Population(books(3.0))
    while site.reserve(charge(gaussian(20.0))):
        pass
    fitting = {standing.book for standing in site.books.standings(site.total) if standing.fits}
    assert "Gaussian DP" in fitting
    assert "basic composition" not in fitting
    assert len(site.jobs) > 100


def test_many_sampled_jobs_are_admitted_by_rdp_after_the_basic_book_is_full() -> None:
    site = Population(books(3.0))
    while site.reserve(charge(poisson(2.0, 0.01, 100))):
        pass
    fitting = {standing.book for standing in site.books.standings(site.total) if standing.fits}
    assert {book[:3] for book in fitting} == {"RDP"}
    assert len(site.jobs) > 10


def test_gaussian_dp_is_closed_for_ever_once_an_event_was_sampled() -> None:
    made = books()
    cost = made.cost(charge(poisson(5.0, 0.1)), made.nothing)
    assert math.isinf(cost.of(1).gaussian)
    assert cost.of(0).gaussian == 0.0
    assert not made.standings(cost.worst)[len(made.orders)].fits


def test_closing_frees_rounds_that_never_began_but_not_in_the_basic_book() -> None:
    made = books()
    once = gaussian(30.0)
    cost = made.cost(charge(gaussian(10.0), rounds=20, once=[once]), made.nothing)
    assert cost.of(5).gaussian == pytest.approx(1 / 900 + 5 / 100)
    assert cost.of(5).rdp == pytest.approx([order / 2 * (1 / 900 + 5 / 100) for order in made.orders])
    assert cost.of(5).epsilon == cost.worst.epsilon == epsilon_of([once, gaussian(10.0, 20)], 1e-6).epsilon
    assert cost.of(5).delta == cost.worst.delta == 1e-6
    assert cost.of(0).gaussian == pytest.approx(1 / 900)


def test_what_counts_as_a_whole_counts_from_the_first_round_on() -> None:
    made = books()
    cost = made.cost(charge(gaussian(2.0), rounds=20, whole=True), made.nothing)
    assert cost.of(0).gaussian == 0.0
    assert cost.of(1) == cost.of(7) == cost.worst
    assert cost.worst.gaussian == pytest.approx(0.25)
    assert cost.worst.epsilon == epsilon_of([gaussian(2.0)], 1e-6).epsilon


def test_the_basic_book_takes_a_jobs_delta_and_at_most_half_of_what_is_left() -> None:
    made = books(delta=1e-5)
    assert made.cost(charge(gaussian(5.0), delta=1e-7), made.nothing).once.delta == 1e-7
    assert made.cost(charge(gaussian(5.0), delta=1e-3), made.nothing).once.delta == made.basic_delta / 2
    total = made.nothing
    for _ in range(200):
        total += made.cost(charge(gaussian(1000.0), delta=1e-3), total).worst
    assert total.delta <= made.basic_delta


def test_the_basic_book_is_full_when_its_delta_is_spent() -> None:
    made = books()
    spent = replace(made.nothing, delta=made.basic_delta)
    cost = made.cost(charge(gaussian(5.0)), spent)
    assert math.isinf(cost.once.epsilon)
    assert not made.standings(spent + cost.worst)[-1].fits
    over = replace(made.nothing, delta=made.basic_delta * 1.01)
    assert not made.standings(over)[-1].fits


@pytest.mark.parametrize(
    ("event", "ledger", "sensitivity"),
    [
        (ADD_REMOVE, ADD_REMOVE, 1.0),
        (ADD_REMOVE, ZERO_OUT, 1.0),
        (ADD_REMOVE, REPLACE_ONE, 2.0),
        (ZERO_OUT, ZERO_OUT, 1.0),
        (ZERO_OUT, REPLACE_ONE, 2.0),
        (REPLACE_ONE, REPLACE_ONE, 1.0),
    ],
)
def test_a_relation_that_bounds_the_ledgers_is_converted(event: Relation, ledger: Relation, sensitivity: float) -> None:
    made = books(relation=ledger)
    cost = made.cost(charge(gaussian(5.0, relation=event)), made.nothing).worst
    assert cost.gaussian == pytest.approx((sensitivity / 5) ** 2)
    assert cost.rdp == pytest.approx([order * sensitivity**2 / 50 for order in made.orders])
    assert cost.epsilon == pytest.approx(epsilon_of([gaussian(5.0 / sensitivity)], 1e-6).epsilon)


@pytest.mark.parametrize(
    ("event", "ledger"), [(ZERO_OUT, ADD_REMOVE), (REPLACE_ONE, ADD_REMOVE), (REPLACE_ONE, ZERO_OUT)]
)
def test_a_relation_that_does_not_bound_the_ledgers_is_refused(event: Relation, ledger: Relation) -> None:
    made = books(relation=ledger)
    with pytest.raises(ValueError, match=f"expected a job whose relation bounds {ledger.value}.*got {event.value}"):
        made.cost(charge(gaussian(5.0, relation=event)), made.nothing)


def test_fixed_size_samples_are_charged_under_replace_one_only() -> None:
    event = FixedSizeGaussian(noise_std=5.0, sensitivity=2.0, drawn=10, population=1000)
    under = books(relation=REPLACE_ONE)
    assert 0 < under.cost(charge(event), under.nothing).worst.rdp[0] < under.orders[0] * 4 / 50
    with pytest.raises(ValueError, match="relation bounds add-remove"):
        books().cost(charge(event), under.nothing)


def test_no_events_and_no_rounds_cost_nothing() -> None:
    made = books()
    nothing = made.cost(charge(gaussian(5.0), rounds=0), made.nothing).worst
    assert nothing == replace(made.nothing, delta=1e-6)
    assert made.cost(charge(gaussian(5.0, 0), rounds=9), made.nothing).worst == nothing


@pytest.mark.parametrize("noise", [0.7, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("rate", [0.001, 0.05, 0.5, 1.0])
def test_rdp_of_an_exchange_in_a_poisson_sample_is_above_the_true_divergence(noise: float, rate: float) -> None:
    """Of the two mixtures that differ most, by quadrature: one unit at +1 against the same unit at -1."""
    made = books(relation=REPLACE_ONE)
    cost = made.cost(charge(poisson(noise, rate)), made.nothing).worst

    def log_density(x: float, at: float) -> float:
        parts = [norm.logpdf(x, at, noise) + math.log(rate)]
        if rate < 1:
            parts.append(norm.logpdf(x, 0, noise) + math.log1p(-rate))
        return float(np.logaddexp.reduce(parts))

    for order, bound in zip(made.orders, cost.rdp, strict=True):

        def integrand(x: float, order: float = order) -> float:
            return math.exp(order * log_density(x, 1.0) + (1 - order) * log_density(x, -1.0))

        reach = 12 * noise + 2 * order
        moment = quad(integrand, -reach, reach, limit=500, points=[0.0, order])[0]
        truth = math.log(moment) / (order - 1)
        assert truth <= bound * (1 + 1e-9)
        assert bound <= order * 4 / (2 * noise**2) * (1 + 1e-9)
        if rate == 1:
            assert bound == pytest.approx(truth, rel=1e-6)


def test_rdp_of_an_exchange_keeps_most_of_the_amplification() -> None:
    made = books(8.0, relation=REPLACE_ONE)
    exchanged = made.cost(charge(poisson(4.0, 0.05)), made.nothing).worst.rdp
    single = books(8.0).cost(charge(poisson(4.0, 0.05)), made.nothing).worst.rdp
    assert all(3.5 < a / b < 6 for a, b in zip(exchanged, single, strict=True))


@pytest.mark.parametrize(
    ("ledger", "job"),
    [(Unit.PATIENT, Unit.ROW), (Unit.CLIENT, Unit.PATIENT), (Unit.ROW, Unit.CLIENT), (Unit.PATIENT, Unit.CLIENT)],
)
def test_a_job_that_hides_something_else_is_refused(ledger: Unit, job: Unit) -> None:
    made = books(unit=ledger)
    with pytest.raises(
        ValueError, match=f"expected a job that hides a {ledger.value}.*got one that hides a {job.value}"
    ):
        made.cost(replace(charge(gaussian(5.0)), unit=job), made.nothing)


def test_a_job_that_hides_patients_hides_an_exchanged_row_and_no_other() -> None:
    """A row more may change which of a patient's rows the cap keeps: it is an exchange of the patient's data."""
    made = books(unit=Unit.ROW, relation=Relation.REPLACE_ONE)
    assert made.cost(charge(gaussian(5.0)), made.nothing).worst.gaussian == pytest.approx(4 * 0.04)
    other = books(unit=Unit.ROW)
    with pytest.raises(ValueError, match=r"expected a job that hides a row.*got one that hides a patient"):
        other.cost(charge(gaussian(5.0)), other.nothing)


@pytest.mark.parametrize("epsilon", [0.5, 3.0])
def test_room_is_the_largest_job_that_still_fits(epsilon: float) -> None:
    site = Population(books(epsilon))
    site.reserve(charge(gaussian(30 / epsilon)))
    room = site.books.room(site.total)
    assert 0.3 * epsilon < room < epsilon
    low, high = 0.1, 1e4  # the noise whose epsilon at the cap's delta this is
    while high / low > 1 + 1e-9:
        noise = math.sqrt(low * high)
        low, high = (noise, high) if true_delta([gaussian(noise)], room) > DELTA else (low, noise)
    for noise, fits in ((high * 1.001, True), (high * 0.999, False)):
        worst = site.books.cost(charge(gaussian(noise), delta=DELTA), site.total).worst
        assert site.books.fits(site.total + worst) is fits


def test_nothing_left_is_room_for_nothing() -> None:
    made = books()
    spent = Total(rdp=(math.inf,) * len(made.orders), gaussian=math.inf, epsilon=made.epsilon, delta=made.basic_delta)
    assert made.room(spent) < 1e-6


@pytest.mark.parametrize(
    ("epsilon", "delta"),
    [(0.0, 1e-5), (-1.0, 1e-5), (math.inf, 1e-5), (math.nan, 1e-5), (1.0, 0.0), (1.0, 1.0), (1.0, math.nan)],
)
def test_caps_that_are_none_are_refused(epsilon: float, delta: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        books(epsilon, delta)


@pytest.mark.parametrize(
    "change",
    [
        {"rdp_delta": 1e-5},
        {"basic_delta": math.nan},
        {"gaussian_delta": 0.0},
        {"orders": (1.0, 2.0, 3.0)},
        {"orders": (math.nan, 2.0, 3.0)},
        {"epsilon": math.inf},
        {"delta": 1e-7},
        {"unit": Unit.OFF},
    ],
)
def test_books_whose_shares_are_more_than_the_cap_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        replace(books(), **change)  # type: ignore[arg-type]


def test_a_nan_is_never_admitted() -> None:
    made = books()
    for total in (
        replace(made.nothing, rdp=(math.nan,) * len(made.orders)),
        replace(made.nothing, gaussian=math.nan),
        Total(rdp=(math.inf,) * len(made.orders), gaussian=math.inf, epsilon=math.nan),
    ):
        try:
            admitted = made.fits(total)
        except ValueError:
            continue
        assert not admitted
