"""The round loop: order, contributions, rule, server optimiser, evaluation, record."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NoReturn

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from wardround.contribution import Contribution, Report
from wardround.errors import LocalError
from wardround.orders import Order, OrderKind, SiteId, Split, derive_seed, digest
from wardround.plan import Plan
from wardround.plan_privacy import Disclosure
from wardround.plan_protection import TableChoice
from wardround.plan_robust import OFF
from wardround.plan_sections import Select, Standardize
from wardround.standardization import robust_statistics, statistics_fault, statistics_of
from wardround.strategies.cohort import draw_cohort
from wardround.strategies.composition import least_replies, quarantine_threshold
from wardround.strategies.privacy.central import CentralPrivacy
from wardround.strategies.privacy.statistics_noise import statistics_noise_std
from wardround.strategies.protection import Protection
from wardround.strategies.records import Absence, EvaluationRecord, Observer, PrivacyRecord, RoundRecord, RunState
from wardround.strategies.roster import find_sites
from wardround.strategies.rules.ingest import LONGEST
from wardround.strategies.rules.rule import Memory, RoundContext, Rule
from wardround.strategies.secagg.plan_terms import exact_terms, parameters_of
from wardround.strategies.server_optimizer import ServerStep
from wardround.strategies.tally_sums import TallySums
from wardround.tally import Tally
from wardround.vector import F32

__all__ = ["FederatedStrategy", "PrivacyMeter", "RootUpdate", "SitesAwayError"]

PrivacyMeter = Callable[[F32 | None, Memory], PrivacyRecord]
"""What has been spent after a round, from its update, shape (d,), and what the rule keeps."""

RootUpdate = Callable[[Order, F32], F32]
"""What the server's own rows make of the model in a round: an update, shape (d,)."""

_MAX_VOID_ROUNDS = 5
_MAX_SITES_IN_DETAIL = 200
"""Per-site evaluations are recorded up to so many sites; beyond, only the sum is kept."""


class SitesAwayError(LocalError):
    """Sites that are needed did not answer; they may be asked again."""


class FederatedStrategy(Strategy):
    """Runs a plan over any Flower Grid. Whole rounds are run by `start` (or `advance`, one by one).

    `attempts` says, from 0 and durably, which try at a round begins, where sites must not answer an order twice: under
    secure aggregation a round that was broken off cannot go on. A plan that hides its clients counts for itself.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        run_id: str,
        protection: Protection,
        rule: Rule,
        num_parameters: int,
        observers: Sequence[Observer] = (),
        clock: Callable[[], float] | None = None,
        plan_digest: str | None = None,
        root: RootUpdate | None = None,
        central: CentralPrivacy | None = None,
        meter: PrivacyMeter | None = None,
        attempts: Callable[[int], int] | None = None,
    ) -> None:
        self._plan, self._run_id, self._root = plan, run_id, root
        self._attempts = attempts
        if plan.privacy.per_client and central is None:
            raise LocalError("privacy.unit: expected the account of a plan that hides its clients, got none")
        self._central, self._meter = central, meter
        self._min_replies = least_replies(plan)
        self._quarantine_at = quarantine_threshold(plan)
        clip = None if plan.privacy.per_client else plan.clipping.clip_norm
        self._longest = LONGEST if clip is None else clip * (1 + 1e-4)  # honest guards clip in float32
        if clip is not None and plan.protection.on:
            self._longest += math.sqrt(num_parameters) / exact_terms(plan)[2]  # a step of rounding in each value
        self.context: RoundContext | None = None
        """What the rule is told in the round at work."""
        self._plan_digest = plan_digest or plan.digest
        self._protection, self._rule = protection, rule
        self._step = ServerStep(settings=plan.server_optimizer, num_parameters=num_parameters)
        self._observers, self._clock = tuple(observers), clock
        self._sites: Mapping[SiteId, int] | None = None

    # -- a whole run ------------------------------------------------------------------------------

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Flower's entry point: train from `initial_arrays` ("model": one flat float32 array).

        The plan says everything else; the last four arguments must be left at their defaults.
        """
        if train_config or evaluate_config or evaluate_fn:
            raise LocalError("FederatedStrategy takes its settings from the plan, not from start()")
        initial = np.ascontiguousarray(initial_arrays["model"].numpy(), dtype=np.float32)
        state = self.run(grid, RunState(round=0, model=initial), num_rounds)
        result = Result(arrays=ArrayRecord({"model": Array(self.released(state))}))
        total = self.evaluate(grid, state, Split.TEST).total
        result.evaluate_metrics_clientapp[state.round] = MetricRecord(dict(total.metrics()))
        return result

    def run(self, grid: Grid, state: RunState, num_rounds: int | None = None) -> RunState:
        """Advance `state` until the last round is done or the plan's early stopping ends the run."""
        if state.statistics is None and self._plan.data.standardize is Standardize.FEDERATED:
            state = self.agree_on_statistics(grid, state)
        last = self._plan.rounds if num_rounds is None else num_rounds
        while state.round < last and not state.stopped:
            state = self.advance(grid, state)
        return state

    def released(self, state: RunState) -> F32:
        """The model that the plan releases: the last, or the best on the validation rows."""
        if self._plan.evaluation.select is Select.BEST and state.best_model is not None:
            return state.best_model
        return state.model

    # -- one round --------------------------------------------------------------------------------

    def advance(self, grid: Grid, state: RunState) -> RunState:
        """One round: the next state, which every observer has been told of."""
        started, cpu = time.perf_counter(), time.process_time()
        simulated = self._clock() if self._clock else 0.0
        number = state.round + 1
        if self._central is not None:
            self._central.check(state.round)
            if obstacle := self._central.obstacle():
                return self._ended(state, obstacle)
        index = self._begin(number)
        if self._plan.privacy.per_example and index >= self._plan.rounds:
            return self._ended(state, f"round {number} was broken off, and the claim has no room for another try")
        cohort = self._cohort(grid, state, index)
        model = state.model.astype("<f4", copy=False).tobytes()
        order = self._order(OrderKind.FIT, number, state, model, attempt=index - (number - 1))
        # sites in quarantine, where the others are too few; groups only get smaller by them
        left_out = 0 if self._plan.protection.on else self._plan.cohort_size - len(cohort)
        self.context = context = self._context(state, order, left_out)
        self._protection.open(grid, cohort)
        tallies = TallySums()
        contributions = self._counted(self._protection.collect(grid, order, model), tallies)
        aggregate = self._rule.apply(contributions, context)
        absences, protection = tuple(self._protection.absences), self._protection.record
        if not self._noises:  # where clients are hidden from the model's users alone, it may hang on one of them
            self._fail_if_nobody_could(cohort)
        replies, refused = tallies.contributions, aggregate.report.refused
        reason = aggregate.reason
        # a rule reckons with num_byzantine bad ones: that so many are refused, or in quarantine, voids no round
        found = refused + context.left_out
        needed = self._min_replies - min(found, self._plan.robust.num_byzantine)
        usable = replies - refused
        if self._noises:  # a refused update counts as zero there, and must not show
            needed, usable = self._min_replies, replies
        if usable < max(needed, 0 if self._noises else 1):
            reason = self._too_few(usable, len(cohort), needed)
        hidden = self._in_secret  # who took part is not published where the claim rests on it
        after = replace(state, round=number, rule_memory=aggregate.memory)
        update = None if reason else aggregate.vector
        if update is None:
            after = replace(after, void_rounds=state.void_rounds + 1)
        else:
            after = self._updated(after, state, update)
        after = self._reputed(after, aggregate.report)
        after, validation = self._validated(grid, after)
        nobody = bool(cohort) and not hidden and len(absences) == len(cohort)
        after = self._within_budget(after, absences, void=update is None or nobody)
        record = RoundRecord(
            round=number,
            cohort=() if hidden else tuple(cohort),
            absences=() if hidden else absences,
            void=update is None,
            lr=self._plan.training.lr_at(number, self._plan.rounds),
            update_norm=0.0 if update is None else float(np.linalg.norm(update.astype(np.float64))),
            train=None if self._plan.privacy.on else tallies.total,
            validation=validation,
            report=Report() if hidden else aggregate.report,
            reason=reason,
            reputation=after.reputation,
            privacy=None if self._meter is None else self._meter(update, aggregate.memory),
            protection=protection,
            # how long a round took tells who took part
            seconds=0.0 if hidden else time.perf_counter() - started,
            cpu_seconds=0.0 if hidden else time.process_time() - cpu,
            simulated_seconds=self._clock() - simulated if self._clock and not hidden else None,
        )
        for observer in self._observers:
            observer.round_done(record, after)
        if after.void_rounds >= _MAX_VOID_ROUNDS and not after.stopped:
            raise LocalError(f"{after.void_rounds} rounds in a row were void; last: {_why_void(record)}")
        return after

    def _begin(self, number: int) -> int:
        """The index, from 0, of a try at round `number` among all that may have been begun."""
        if self._central is not None:
            return self._central.begin()
        return number - 1 + (0 if self._attempts is None else self._attempts(number))

    @property
    def _noises(self) -> bool:
        """Whether the server adds the noise that hides clients: its rule then counts what is refused as zero."""
        return self._central is not None and not self._plan.protection.on

    def _too_few(self, usable: int, asked: int, needed: int) -> str:
        if not self._plan.protection.on:
            return f"{usable} usable updates of {asked}, and {needed} are needed"
        aborts = () if self._protection.record is None else self._protection.record.aborts
        causes = "".join(f"; {one.reason}" for one in aborts[:1])
        return f"{usable} usable sums of {self._plan.contributions} groups, and {needed} are needed{causes}"

    def _ended(self, state: RunState, reason: str) -> RunState:
        """The state after a round that cannot be paid for: nobody is asked, and every observer is told."""
        after = replace(state, round=state.round + 1, stopped=reason)
        record = RoundRecord(
            round=after.round,
            cohort=(),
            absences=(),
            void=True,
            lr=self._plan.training.lr_at(after.round, self._plan.rounds),
            update_norm=0.0,
            train=None,
            validation=None,
            report=Report(),
            reason=reason,
            reputation=state.reputation,
            privacy=None if self._meter is None else self._meter(None, state.rule_memory),
            seconds=0.0,
            cpu_seconds=0.0,
        )
        for observer in self._observers:
            observer.round_done(record, after)
        return after

    @property
    def _in_secret(self) -> bool:
        return self._plan.privacy.hides_participation

    def _cohort(self, grid: Grid, state: RunState, index: int) -> dict[SiteId, int]:
        drawn = None if self._central is None else self._central.cohort(self._roster(grid), index)
        return self._draw(grid, state, self._plan.cohort_size, "fit", state.round + 1) if drawn is None else drawn

    def _within_budget(self, state: RunState, absences: Sequence[Absence], *, void: bool) -> RunState:
        """The state, stopped where no further round can be paid for."""
        spent = [f"{one.site}: {one.reason.removeprefix(f'{one.site}: ')}" for one in absences if one.spent]
        if void and spent:
            return replace(state, stopped=spent[0])
        if state.stopped or state.round >= self._plan.rounds:
            return state
        return replace(state, stopped="" if self._central is None else self._central.obstacle())

    def _context(self, state: RunState, order: Order, left_out: int) -> RoundContext:
        root = {} if self._root is None else {"root": self._root(order, state.model)}
        return RoundContext(
            size=state.model.size,
            longest=self._longest,
            left_out=left_out,
            round=order.round,
            seed=derive_seed(self._plan.seed, "rule", order.round),
            memory=state.rule_memory,
            references=root,
            model=state.model,
        )

    def _reputed(self, state: RunState, report: Report) -> RunState:
        """The state with what the round's evidence makes of its sites' reputation; a plain mean has none."""
        plan, settings = self._plan, self._plan.robust
        if settings.rule == OFF:
            return state
        sites, protected = plan.simulation.sites - len(plan.cohort.without), plan.protection.on
        least = parameters_of(plan).min_roster if protected else self._min_replies - settings.num_byzantine
        reputation = state.reputation.after(
            report,
            state.round,
            settings.quarantine,
            threshold=self._quarantine_at,
            sites=sites,
            num_byzantine=settings.num_byzantine,
            least=max(1, least),
            group_size=sites // plan.contributions if protected else 1,
            fixed_groups=protected and plan.protection.tables is TableChoice.ONCE,
        )
        return replace(state, reputation=reputation)

    def _updated(self, after: RunState, before: RunState, update: F32) -> RunState:
        model, memory = self._step.apply(before.model, update, before.optimizer)
        if not np.isfinite(model).all():
            raise LocalError(
                f"round {after.round}: the new model is not finite; the model of round {before.round} is kept. "
                "Lower training.lr or server_optimizer.lr"
            )
        return replace(after, model=model, optimizer=memory, void_rounds=0)

    def _fail_if_nobody_could(self, asked: Mapping[SiteId, int]) -> None:
        """A site that fails is left out; when all fail, something is wrong with the run itself."""
        failed = [absence for absence in self._protection.absences if absence.failed and not absence.spent]
        if failed and len(failed) == len(asked):
            raise LocalError(f"every site failed; {failed[0].site}: {failed[0].reason}")

    # -- statistics and evaluation ----------------------------------------------------------------

    def agree_on_statistics(self, grid: Grid, state: RunState) -> RunState:
        """Agree once, before the first round, on means and deviations of the columns.

        Every site's sums are added up. Under a robust rule medians over sites are taken instead, and up to
        `num_byzantine` sites may be missing or send what cannot be. Raises SitesAwayError where too many did not answer
        and may be asked again, since what the others sent tells nothing more then.
        """
        data, robust = self._plan.data, self._plan.robust
        sites = self._roster(grid)
        self._protection.open(grid, sites)
        std = statistics_noise_std(data, self._plan.privacy)
        tallies, missing, counted = [], [], 0
        for contribution in self._protection.collect(grid, self._order(OrderKind.STATISTICS, 0, state)):
            if fault := statistics_fault(data, contribution.tally, noisy=std > 0):
                missing.append(f"{', '.join(contribution.members)}: {fault}")
            else:
                tallies.append(contribution.tally)
                counted += len(contribution.members)
        missing += [f"{absence.site}: {absence.reason}" for absence in self._protection.absences]
        if len(missing) > (0 if robust.rule == OFF else robust.num_byzantine):
            error = f"standardisation needs every site; {missing[0]}"
            absences = self._protection.absences
            if len(absences) < len(missing) or any(absence.failed or absence.spent for absence in absences):
                raise LocalError(error)
            if self._plan.protection.on and tallies:
                raise LocalError(f"{error}; they are not asked again, since two sums may tell a single site's")
            raise SitesAwayError(error)
        if robust.rule == OFF:
            statistics = statistics_of(data, sum(tallies[1:], start=tallies[0]), std * counted**0.5)
        else:
            statistics = robust_statistics(data, tallies, std)
        return replace(state, statistics=statistics)

    def evaluate(self, grid: Grid, state: RunState, split: Split) -> EvaluationRecord:
        """The released model's tallies on `split`, summed over all sites that answer."""
        for _ in range(2 if self._plan.protection.on else 1):  # once more without a dealer that was proven bad
            record = self._evaluate(grid, state, self.released(state), split, self._asked(grid, state))
            if record is not None:
                return record
        aborts = () if self._protection.record is None else self._protection.record.aborts
        raise LocalError("; ".join(("no site answered", *(one.reason for one in aborts[:1]))))

    def _validated(self, grid: Grid, state: RunState) -> tuple[RunState, EvaluationRecord | None]:
        settings = self._plan.evaluation
        if self._plan.privacy.on and self._plan.privacy.evaluation is Disclosure.OFF:
            return state, None
        if self._plan.protection.on and state.void_rounds:
            return state, None  # two sums over one model may tell single sites
        if not self._plan.validates(state.round):
            return state, None
        sites = self._draw(grid, state, settings.sites or len(self._roster(grid)), "evaluate", state.round)
        record = self._evaluate(grid, state, state.model, Split.VALIDATION, sites)
        if record is None:
            return state, None  # under protection one site can have an evaluation given up: not the run with it
        loss = record.total.metrics().get("loss")
        if loss is None:
            return state, record
        if state.best_loss is None or loss < state.best_loss - settings.min_delta:
            better = replace(state, best_loss=loss, best_round=state.round, best_model=state.model)
            return replace(better, evaluations_without_gain=0), record
        idle = state.evaluations_without_gain + 1
        stopped = ""
        if settings.patience is not None and idle >= settings.patience:
            stopped = f"no better validation loss in {idle} evaluations (best in round {state.best_round})"
        return replace(state, evaluations_without_gain=idle, stopped=stopped), record

    def _evaluate(
        self, grid: Grid, state: RunState, model: F32, split: Split, sites: Mapping[SiteId, int]
    ) -> EvaluationRecord | None:
        data = model.astype("<f4", copy=False).tobytes()
        return self._ask(grid, self._order(OrderKind.EVALUATE, state.round, state, data, split), data, sites)

    def _ask(
        self, grid: Grid, order: Order, model: bytes | None, sites: Mapping[SiteId, int]
    ) -> EvaluationRecord | None:
        """None where nothing came of it, though not because all failed."""
        self._protection.open(grid, sites)
        detail = len(sites) <= _MAX_SITES_IN_DETAIL
        sums = TallySums()
        each: dict[SiteId, Tally] = {}
        for contribution in self._protection.collect(grid, order, model):
            sums.add(contribution.members, contribution.tally)
            if detail and len(contribution.members) == 1:
                each[contribution.members[0]] = contribution.tally
        total, odd = sums.total, sums.odd
        if total is None:
            self._fail_if_nobody_could(sites)
            return None
        reason = "rejected: a tally of another kind than the other sites'"
        absences = (*self._protection.absences, *(Absence(site=site, reason=reason, failed=True) for site in odd))
        seen = {site: tally for site, tally in sorted(each.items()) if site not in odd}
        return EvaluationRecord(total=total, sites=seen, absences=absences)

    # -- pieces -----------------------------------------------------------------------------------

    def _order(
        self,
        kind: OrderKind,
        number: int,
        state: RunState,
        model: bytes = b"",
        split: Split = Split.TRAIN,
        attempt: int = 0,
    ) -> Order:
        central = self._central if kind is OrderKind.FIT else None
        return Order(
            run_id=self._run_id,
            plan_digest=self._plan_digest,
            kind=kind,
            round=number,
            attempt=attempt,
            clip_norm=None if central is None else central.clip_norm(state.rule_memory),
            split=split,
            model_digest=digest(model) if model else "",
            statistics=state.statistics,
        )

    def _roster(self, grid: Grid) -> Mapping[SiteId, int]:
        if self._sites is None:
            found, without = find_sites(grid, self._plan.simulation.sites), set(self._plan.cohort.without)
            if unknown := sorted(without - set(found)):
                raise LocalError(f"cohort.without: expected sites of this federation, got {unknown[0]!r}")
            self._sites = {site: node for site, node in found.items() if site not in without}
        return self._sites

    def _asked(self, grid: Grid, state: RunState) -> Mapping[SiteId, int]:
        """The sites that are not in quarantine."""
        quarantined = state.reputation.quarantined
        return {site: node for site, node in self._roster(grid).items() if site not in quarantined}

    def _draw(self, grid: Grid, state: RunState, size: int, *purpose: str | int) -> dict[SiteId, int]:
        roster = self._asked(grid, state)
        return {site: roster[site] for site in draw_cohort(tuple(roster), size, self._plan.seed, *purpose)}

    @staticmethod
    def _counted(contributions: Iterable[Contribution], tallies: TallySums) -> Iterable[Contribution]:
        """Pass contributions on, adding up their tallies on the way."""
        for contribution in contributions:
            tallies.add(contribution.members, contribution.tally)
            yield contribution

    # -- Flower's piecewise interface, which cannot express a protocol of several messages --------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Not used: a round may need several exchanges, so `start` runs it whole."""
        self._whole_rounds_only()

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Not used, like `configure_train`."""
        self._whole_rounds_only()

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Not used, like `configure_train`."""
        self._whole_rounds_only()

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Not used, like `configure_train`."""
        self._whole_rounds_only()

    def summary(self) -> None:
        """Nothing to say: the plan says it all."""

    @staticmethod
    def _whole_rounds_only() -> NoReturn:
        raise LocalError("FederatedStrategy runs whole rounds: call start()")


def _why_void(record: RoundRecord) -> str:
    """The reason of a void round, with the first site's own."""
    sites = [f"{absence.site}: {absence.reason}" for absence in record.absences]
    sites += [f"{', '.join(line.members)}: {line.reason}" for line in record.report.lines if line.reason]
    return "; ".join((record.reason, *sites[:1]))
