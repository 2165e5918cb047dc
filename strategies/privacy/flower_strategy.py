"""Differential privacy of clients inside any Flower app: clip, noise and account around another Flower strategy."""

import logging
from collections.abc import Iterable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import QFedAvg, Strategy

from wardround.contribution import Contribution, Evidence, Report, Verdict
from wardround.errors import LocalError
from wardround.orders import SiteId
from wardround.plan import Plan, parse_plan
from wardround.plan_privacy import Disclosure, Sampling
from wardround.state_store import MemoryStore, StateStore
from wardround.strategies.flower_replies import GlobalModel, answers_of, contributions_of
from wardround.strategies.privacy.build import build_central
from wardround.strategies.privacy.claim import Claim, claims_of
from wardround.strategies.privacy.flower_clip_norm import tell_clip_norm
from wardround.strategies.rules.rule import Memory, RoundContext
from wardround.strategies.wrapped_strategy import PRIVATE, ROBUST, TREES, Kinds, as_reply, check_wrapped

__all__ = ["PrivateStrategy"]

_log = logging.getLogger("flwr")

_ROBUST = (
    "central noise is made for the mean of clipped updates. Before it, a rule that picks or weighs replies lets one "
    "client steer which others count, by more than the noise hides; behind it, one reply is left to choose from. A "
    "robust rule goes with noise that the clients add themselves"
)
_REFUSED: tuple[tuple[Kinds, str], ...] = (
    (ROBUST, _ROBUST),
    (
        (QFedAvg,),
        "it weighs updates by losses, and unequal weights break the bound on what one client adds",
    ),
    (TREES, "trees are no arrays that can be clipped and averaged"),
    (
        PRIVATE,
        "it would clip and add noise a second time; wrap the strategy inside it",
    ),
)

_REFUSED_KEYS = (  # key, the value that is refused (None: any), reason
    ("unit", None, "expected no key, since this strategy hides clients and nothing else"),
    ("mechanism", "banded-mf", 'expected "gaussian": no Flower node sees to it that its rounds are far enough apart'),
    ("clipping", "per-layer", 'expected "flat" or "adaptive"'),
    (
        "sampling",
        "fixed-size",
        'expected "poisson" or "full": of those connected just then a fixed number is more than their share',
    ),
)


class PrivateStrategy(Strategy):
    """A Flower strategy that hides every client: `PrivateStrategy(FedAvg(), population=200, rounds=50, epsilon=3.0)`.

    In each round every reply's update (its arrays - the global model's, as one vector) is scaled down to L2 norm
    `clip_norm`, the updates are added up, Gaussian noise of standard deviation `noise_multiplier` x `clip_norm` is
    added to the sum, and that is divided by `num_clients`, the number that is planned, whatever comes back. What is no
    finite update of these arrays counts as zero. `strategy` then gets the noisy mean as if one client had sent it, so
    that FedAvg takes it and server optimisers (FedAdam, FedAvgM, ...) step along it; it sees nothing else of the
    replies. The floating-point arrays of the global model are learned, all others stay as they are.

    `population` clients can take part, whether they are connected or not; one client is one node. `num_clients` take
    part in a round (absent: all). `privacy` are further keys of a plan's [privacy]: `epsilon` (noise is computed) or
    `noise_multiplier` (epsilon is computed; with both, training stops before epsilon is exceeded), `delta`,
    `clip_norm`, `clipping="adaptive"` and its keys, `relation`, `sampling="poisson"`, `evaluation`, `research_delta`.
    Raises ValueError (PlanError) for what breaks the claim, with the reason.

    A round is charged when it begins. After `rounds` rounds, or before epsilon is exceeded, no more training is asked
    for, and the global model stays. `store` keeps how many rounds were begun: one that is durable (`FileStore`) keeps
    the account over restarts, and belongs to this population and claim alone. `memory` is the clip norm that adapts.

    The server is trusted: it sees the updates, and adds the noise. `reports` are for its eyes only.
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        population: int,
        rounds: int,
        num_clients: int | None = None,
        store: StateStore | None = None,
        **privacy: Any,
    ) -> None:
        self.strategy = strategy
        self.plan = _plan(population, rounds, num_clients, privacy)
        _check(strategy, self.plan)
        self.central = build_central(self.plan, (), MemoryStore() if store is None else store)
        self.reports: dict[int, Report] = {}
        self.memory: Memory = {}
        self._open: tuple[GlobalModel, frozenset[SiteId]] | None = None

    def epsilon(self, rounds: int | None = None) -> float:
        """What so many begun rounds spend at the claim's delta; absent: the rounds that were begun so far."""
        return self.central.epsilon if rounds is None else self.central.terms.spent(rounds).epsilon

    def claim(self) -> Claim:
        """What is claimed of all rounds together; `claim().words()` is text for people."""
        [claim] = claims_of(self.plan)
        return claim

    def summary(self) -> None:
        """Log the claim and the mechanism, then what the strategy inside logs."""
        terms, claim = self.central.terms, self.claim()
        _log.info("\t├──> Privacy: %s, after %d rounds", claim.headline(), terms.rounds)
        _log.info("\t│\t├── Noise multiplier: %.4g", terms.noise_multiplier)
        _log.info("\t│\t├── Clip norm: %g (%s)", self.plan.privacy.clip_norm, self.plan.privacy.clipping.value)
        _log.info("\t│\t├── Clients: %d planned of %d", self.plan.cohort_size, terms.population)
        _log.info("\t│\t└── Metrics: none of training, evaluation %s", self.plan.privacy.evaluation.value)
        for warning in claim.warnings:
            _log.warning("\t│\t%s", warning)
        self.strategy.summary()

    # -- Flower's interface -----------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """The messages of the strategy inside, to those who take part; none once the budget is spent.

        Raises LocalError for a global model that no update can be added to, and for more nodes than were planned for.
        """
        self._open = None
        if obstacle := self.central.obstacle():
            _log.warning("\t> Round %d: the global model stays as it is: %s", server_round, obstacle)
            return []
        model = GlobalModel.of(arrays)
        if (norm := self.central.clip_norm(self.memory)) is not None:
            tell_clip_norm(config, norm)
        messages = list(self.strategy.configure_train(server_round, arrays, config, grid))
        nodes = {SiteId(str(message.metadata.dst_node_id)): 1 for message in messages}
        terms = self.central.terms
        most = self.plan.cohort_size if terms.sampling is Sampling.FULL else terms.population
        if len(nodes) > most:
            raise LocalError(f"expected training at {most} nodes at most (num_clients, population), got {len(nodes)}")
        index = self.central.begin()  # charged before anything is sent
        asked = self.central.cohort(nodes, index)
        asked = nodes if asked is None else asked
        self._open = model, frozenset(asked)
        return [message for message in messages if SiteId(str(message.metadata.dst_node_id)) in asked]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """What the strategy inside makes of the noisy mean, and no metrics: those of training rows are not released.

        The mean is noise alone where no reply is left. (None, None) once the budget is spent. Raises LocalError
        before `configure_train`, and for the second time in a round, which would be a release without a charge.
        """
        if self._open is None:
            if self.central.obstacle():
                return None, None
            raise LocalError("aggregate_train: expected configure_train before it, and once in a round")
        (model, asked), self._open = self._open, None
        contributions, refused = contributions_of(answers_of("aggregate_train", replies), model)
        contributions, strangers = _of_asked(contributions, asked)
        context = RoundContext(size=model.layout.size, round=server_round, memory=self.memory)
        made = self.central.mean.apply(contributions, context)
        self.memory = made.memory
        report = Report(tuple(sorted((*made.report.lines, *refused, *strangers), key=lambda line: line.members)))
        self.reports[server_round] = report
        for line in report.lines:
            if line.verdict is Verdict.REFUSED:
                _log.warning("\t> The reply of node %s counts as zero: %s", line.members[0], line.reason)
        noisy = None if made.vector is None else model.plus(made.vector)
        if noisy is None:
            _log.warning("\t> Round %d: the global model stays as it was: the next would not be finite", server_round)
            return None, None
        arrays, _ = self.strategy.aggregate_train(server_round, [as_reply(self.strategy, noisy)])
        return None if arrays is None else model.with_constants(arrays), None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """None: what clients measure would leave in clear. With `evaluation="clear"` those of the strategy inside."""
        if self.plan.privacy.evaluation is Disclosure.OFF:
            return []
        return self.strategy.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Nothing. With `evaluation="clear"`, outside the claim, what the strategy inside makes of the replies."""
        if self.plan.privacy.evaluation is Disclosure.OFF:
            return None
        return self.strategy.aggregate_evaluate(server_round, replies)


def _plan(population: int, rounds: int, num_clients: int | None, privacy: dict[str, Any]) -> Plan:
    """The plan that comes to the same: its checks, terms and claim are those of this strategy."""
    size = population if num_clients is None else num_clients
    for name, value in (("population", population), ("rounds", rounds), ("num_clients", size)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: expected a number of at least 1, got {value!r}")
    if size > population:
        raise ValueError(f"num_clients: expected at most the population of {population}, got {size}")
    for key, refused, reason in _REFUSED_KEYS:
        if key in privacy and refused in (None, privacy[key]):
            raise ValueError(f"{key}: {reason}")
    return parse_plan(
        {
            "name": "flower",
            "rounds": rounds,
            "task": {"flower_app": "app:client", "flower_initial": "app:initial"},
            "data": {"source": "app"},
            "cohort": {"size": size, "weighting": "uniform"},
            "simulation": {"sites": population},
            "privacy": {**privacy, "unit": "client"},
        }
    )


def _check(strategy: Strategy, plan: Plan) -> None:
    """Raise ValueError for what the claim would not hold with, or what could not work."""
    check_wrapped(strategy, PrivateStrategy, "privacy", _REFUSED)
    fraction = getattr(strategy, "fraction_train", 1.0)
    if fraction <= 0:
        raise ValueError(f"fraction_train: expected more than 0, got {fraction}: every round would be noise alone")
    if plan.privacy.claimed_sampling is Sampling.POISSON and fraction < 1:
        raise ValueError(
            f'fraction_train: expected 1.0 with sampling = "poisson", got {fraction}: Flower\'s own draw is of a fixed '
            "size, from a generator that is no secret, and lowers no epsilon. This strategy draws from all nodes itself"
        )


def _of_asked(
    contributions: Iterable[Contribution], asked: frozenset[SiteId]
) -> tuple[list[Contribution], list[Evidence]]:
    """Those of nodes that take part in the round, and a line for each of the others."""
    known, strangers = [], []
    for one in contributions:
        if one.members[0] in asked:
            known.append(one)
        else:
            reason = "expected no reply from a node that was not asked"
            line = Evidence(members=one.members, weight=0.0, norm=None, verdict=Verdict.REFUSED, reason=reason)
            strangers.append(line)
    return known, strangers
