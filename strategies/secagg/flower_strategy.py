"""Secure aggregation inside any Flower app: the server learns sums of updates, around another Flower strategy."""

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import QFedAvg, Result, Strategy

from wardround import _flower
from wardround.clock import utc_now
from wardround.contribution import Contribution, Report
from wardround.decoding import encode
from wardround.errors import LocalError, RemoteError
from wardround.file_store import FileStore
from wardround.identity import site_name
from wardround.orders import Order, OrderKind, SiteId, Split
from wardround.plan import Plan
from wardround.plan_robust import OFF
from wardround.state_store import StateStore
from wardround.strategies.flower_replies import GlobalModel
from wardround.strategies.privacy.build import build_central
from wardround.strategies.privacy.central import CentralPrivacy
from wardround.strategies.privacy.claim import Claim, claims_of
from wardround.strategies.privacy.flower_strategy import PrivateStrategy
from wardround.strategies.rules.build import build_rule
from wardround.strategies.rules.rule import Memory, RoundContext
from wardround.strategies.secagg.carrying_grid import CarryingGrid
from wardround.strategies.secagg.flower_plan import RunSetting, digest_of_arrays, digest_of_records, flower_plan
from wardround.strategies.secagg.identity_folder import IdentityFolder
from wardround.strategies.secagg.masking import Masking
from wardround.strategies.secagg.plan_terms import parameters_of
from wardround.strategies.secagg.round_evidence import ProtectionRecord
from wardround.strategies.wrapped_strategy import PRIVATE, ROBUST, TREES, Kinds, as_reply, check_wrapped
from wardround.tally import MeansSpec
from wardround.vector import F32

__all__ = ["MaskingStrategy"]

_log = logging.getLogger("flwr")

_REFUSED: tuple[tuple[Kinds, str], ...] = (
    (
        ROBUST,
        "a rule over sums of groups, and what it tolerates, is part of the plan that the sites approve; give "
        '`rule="..."` and `num_byzantine` to this strategy, and another strategy inside',
    ),
    ((QFedAvg,), "it weighs updates by each client's loss, which nobody sees here"),
    (TREES, "trees are no arrays that can be added up"),
    (
        (PrivateStrategy, *PRIVATE),
        "it would clip a sum of many clients as if one had sent it, and add noise for that; give `privacy={...}` to "
        "this strategy, whose clients add the noise themselves",
    ),
)
_ROUNDS = "flower/rounds"
_POLL_S = 0.5


class MaskingStrategy(Strategy):
    """A Flower strategy behind which the server learns sums and no single update: `MaskingStrategy(FedAvg(), ...)`.

    `identity` is the server's folder, with its key and the plan that the sites have approved; `run_config` is
    `context.run_config`, to which rounds are bound, so that all sites work under the same one. `settings`, if there are
    any, are those of `flower_plan` (`population=5, rounds=10, clip_norm=1.0, dropout=0.2, ...`), and have to come to
    that plan. The nodes run `protect(app, ...)`.

    A round takes several exchanges, so `configure_train` runs it as a whole over the grid, with the message of the
    strategy inside (one for all), and `aggregate_train` hands what came of it to that strategy: the mean of each group
    as the reply of a client whose number of examples is the group's weight, or with a `rule` one aggregate. The
    floating-point arrays of the global model are learned, all others stay. Where too few clients are left there is no
    sum, and the global model stays.

    `train_metrics` and `metrics` are names of what the app reports of training and of evaluation, of which the server
    learns the mean over everybody; both have to be among the plan's metrics. Without any, nodes are not asked to
    evaluate. `records` has what came of each round (survivors, drop-outs, causes, costs), `reports` what the rule did.

    With privacy a round is charged when it begins, and after the plan's rounds none is asked for. Rounds are counted
    over restarts, in `identity`. `start` closes that at its end; else call `close`.
    Raises ValueError (PlanError) for what breaks the guarantee, with the reason.
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        identity: str | Path,
        run_config: Mapping[str, RunSetting],
        metrics: Iterable[str] = (),
        train_metrics: Iterable[str] = (),
        now: Callable[[], datetime] = utc_now,
        **settings: Any,
    ) -> None:
        _check(strategy)
        self.strategy, self._folder, self._now = strategy, IdentityFolder(identity), now
        self._run_config = dict(run_config)
        self._specs = {
            OrderKind.FIT: MeansSpec(names=tuple(sorted(train_metrics))),
            OrderKind.EVALUATE: MeansSpec(names=tuple(sorted(metrics))),
        }
        named = sorted({name for spec in self._specs.values() for name in spec.names})
        self.plan = self._folder.plan
        if settings:
            _check_approved(self.plan, flower_plan(**settings, metrics=named))
        if odd := sorted(set(named) - set(self.plan.protection.metrics)):
            raise ValueError(f"metrics: expected names that the sites approved, {odd[0]!r} is none of them")
        if self._specs[OrderKind.FIT].names and self.plan.privacy.on:
            raise ValueError("train_metrics: expected none with privacy, since nothing hides what training counts")
        self.rule = None if self.plan.robust.rule == OFF else build_rule(self.plan.robust)
        self.records: dict[int, ProtectionRecord] = {}
        self.reports: dict[int, Report] = {}
        self.memory: Memory = {}
        self._store: FileStore | None = None
        self._masking: Masking | None = None
        self._sites: dict[int, SiteId] = {}
        self._open: tuple[GlobalModel, list[Contribution]] | None = None
        self._measured: MetricRecord | None = None
        self._evaluated = ""

    def close(self) -> None:
        """Give the server's folder free; the next round opens it again, and begins an epoch."""
        if self._store is not None:
            self._store.close()
        self._store = self._masking = None

    def claim(self) -> Claim | None:
        """What is claimed of all rounds together, where there is privacy; `words()` is text for people."""
        claims = claims_of(self.plan)
        return claims[0] if claims else None

    def summary(self) -> None:
        """Log what the server learns and tolerates, the digest that sites compare, then what `strategy` logs."""
        _log.info("\t├──> Secure aggregation, plan %s:", self.plan.digest)
        for line in parameters_of(self.plan).explain().splitlines():
            _log.info("\t│\t├── %s", line)
        if (claim := self.claim()) is not None:
            _log.info("\t│\t└── Privacy: %s", claim.headline())
        self.strategy.summary()

    # -- Flower's interface -----------------------------------------------------------------------

    def start(self, grid: Grid, initial_arrays: ArrayRecord, *settings: Any, **named: Any) -> Result:
        """Flower's own, and the server's folder is free afterwards."""
        try:
            return super().start(grid, initial_arrays, *settings, **named)
        finally:
            self.close()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Run the round; no message is left to be sent.

        Raises LocalError for a global model that no update can be added to, and for messages of the strategy inside
        that differ from node to node.
        """
        self._open = None
        model = GlobalModel.of(arrays)
        content = _only_content(self.strategy.configure_train(server_round, arrays, config, grid))
        if content is None:
            return []
        masking, store = self._opened()
        central = self._central(model, store)
        if central is not None and (obstacle := central.obstacle()):
            _log.warning("\t> Round %d: the global model stays as it is: %s", server_round, obstacle)
            return []
        self._find_sites(grid)
        found = self._collect(grid, masking, OrderKind.FIT, content, model, _next_round(store, central))
        self._open = model, found
        self.records[server_round] = record = _recorded(masking)
        for abort in record.aborts:
            _log.warning("\t> Round %d: %s", server_round, abort.reason)
        for absence in masking.absences:
            _log.info("\t> Without %s: %s", absence.site, absence.reason)
        return []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """What the strategy inside makes of the groups' means, or of the rule's aggregate; the train metrics' means.

        (None, None) where there is no sum: the global model stays.
        """
        if self._open is None:
            return None, None
        (model, found), self._open = self._open, None
        metrics = _means(found) if self._specs[OrderKind.FIT].names else None
        given = [(one.weight, _vector(one)) for one in found]
        if self.rule is not None:
            context = RoundContext(
                size=model.layout.size,
                round=server_round,
                seed=secrets.randbits(63),
                memory=self.memory,
                model=model.vector,
            )
            made = self.rule.apply(found, context)
            self.memory, self.reports[server_round] = made.memory, made.report
            given = [] if made.vector is None else [(1, made.vector)]
            if made.vector is None:
                _log.warning("\t> Round %d: the global model stays as it was: %s", server_round, made.reason)
        means = [(weight, arrays) for weight, vector in given if (arrays := model.plus(vector)) is not None]
        if not means:
            return None, metrics
        arrays, _ = self.strategy.aggregate_train(
            server_round, [as_reply(self.strategy, arrays, weight) for weight, arrays in means]
        )
        return None if arrays is None else model.with_constants(arrays), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Run the evaluation, whose sums alone leave the nodes; no message is left to be sent.

        Nobody is asked without `metrics`, and nobody a second time about the same model.
        """
        self._measured = None
        if not self._specs[OrderKind.EVALUATE].names:
            return []
        content = _only_content(self.strategy.configure_evaluate(server_round, arrays, config, grid))
        if content is not None and self._evaluated != (asked := digest_of_arrays(content)):
            self._evaluated = asked  # a second sum over one model may tell single sites
            masking, store = self._opened()
            self._find_sites(grid)
            number = int(store.get(_ROUNDS) or 0)
            found = self._collect(grid, masking, OrderKind.EVALUATE, content, GlobalModel.of(arrays), number)
            self._measured = _means(found)
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """The means over everybody who was in a sum, weighted by examples; None where there is none."""
        return self._measured

    # -- pieces -----------------------------------------------------------------------------------

    def _opened(self) -> tuple[Masking, FileStore]:
        if self._store is None or self._masking is None:
            self._store = FileStore(self._folder.path / "state")
            federation = self._folder.federation(self._store, self._now())
            self._masking = Masking(self.plan, federation, self._folder.signing_key, specs=self._specs, now=self._now)
        return self._masking, self._store

    def _central(self, model: GlobalModel, store: StateStore) -> CentralPrivacy | None:
        return build_central(self.plan, (model.layout.size,), store) if self.plan.privacy.on else None

    def _collect(
        self, grid: Grid, masking: Masking, kind: OrderKind, content: RecordDict, model: GlobalModel, number: int
    ) -> list[Contribution]:
        order = Order(
            run_id=self.plan.digest,
            plan_digest=self.plan.digest,
            kind=kind,
            round=number,
            split=Split.TRAIN if kind is OrderKind.FIT else Split.VALIDATION,
            model_digest=digest_of_arrays(content),
            records_digest=digest_of_records(content, self._run_config),
        )
        masking.open(grid, {site: node for node, site in self._sites.items()})
        vector = model.vector.astype("<f4", copy=False).tobytes()
        return list(masking.collect(CarryingGrid(grid, content), order, vector))

    def _find_sites(self, grid: Grid) -> None:
        """Learn which node is which site, of those that are connected; a site that has left may come back."""
        least, limit = parameters_of(self.plan).min_roster, time.monotonic() + (self.plan.cohort.deadline_s or 0.0)
        while True:
            connected = set(grid.get_node_ids())
            nodes = sorted(connected - self._sites.keys())
            content = _flower.pack_order(b"hello")
            asked = _flower.requests(content, nodes, _flower.HELLO, "0")
            for reply in grid.send_and_receive(asked, timeout=self.plan.cohort.deadline_s) if nodes else ():
                self._greet(reply, connected)
            if len(self._sites) >= least:
                return
            if time.monotonic() > limit:
                raise LocalError(f"expected {least} sites to be connected, got {len(self._sites)}")
            time.sleep(_POLL_S)

    def _greet(self, reply: Message, connected: set[int]) -> None:
        node = reply.metadata.src_node_id
        try:
            if reply.has_error():
                raise RemoteError(reply.error.reason or f"error {reply.error.code}")
            site = SiteId(site_name(_flower.read_hello(reply)))
            before = [other for other, name in self._sites.items() if name == site]
            if connected.intersection(before):
                raise RemoteError(f"expected every site once, got a second node of {site}")
        except (RemoteError, ValueError) as error:
            _log.warning("\t> Node %s is left out: %s", node, error)
            return
        for other in before:
            del self._sites[other]  # it is connected anew
        self._sites[node] = site


def _check(strategy: Strategy) -> None:
    """Raise ValueError for what would break the guarantee, or could not work."""
    check_wrapped(strategy, MaskingStrategy, "secure aggregation", _REFUSED)
    fraction = getattr(strategy, "fraction_train", 1.0)
    if fraction != 1.0:
        raise ValueError(
            f"fraction_train: expected 1.0, got {fraction}: keys are agreed on with every site, and who is left out of "
            "a round is what a lying server would choose"
        )


def _check_approved(approved: Plan, wanted: Plan) -> None:
    """Raise ValueError, and name what differs, unless they are the same plan."""
    if approved.digest == wanted.digest:
        return
    ours, theirs = (dict(_leaves("", encode(one))) for one in (wanted, approved))
    odd = next((name for name in sorted(ours.keys() | theirs.keys()) if ours.get(name) != theirs.get(name)), "plan")
    raise ValueError(
        f"{odd}: expected {theirs.get(odd)!r} as in the plan {approved.digest[:12]} that the sites approved, got "
        f"{ours.get(odd)!r}; have them approve plan {wanted.digest[:12]}, or take the setting back"
    )


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(f"{path}.{name}" if path else name, inner)
    else:
        yield path, value


def _only_content(messages: Iterable[Message]) -> RecordDict | None:
    """What all of `messages` carry; None without one. Raises LocalError where they differ: masks would not cancel."""
    found: RecordDict | None = None
    for message in messages:
        if found is None:
            found, digest = message.content, digest_of_records(message.content, {})
        elif message.content is not found and digest_of_records(message.content, {}) != digest:
            raise LocalError("expected the same message to every node, since masks of different rounds do not cancel")
    return found


def _next_round(store: StateStore, central: CentralPrivacy | None) -> int:
    """The number of a round that begins, counted over restarts; with privacy it is charged here."""
    number = int(store.get(_ROUNDS) or 0) + 1
    if central is not None:
        number = central.begin() + 1
    store.put(_ROUNDS, str(number).encode())
    return number


def _recorded(masking: Masking) -> ProtectionRecord:
    if masking.record is None:
        raise LocalError("expected a round that has ended")
    return masking.record


def _means(found: Iterable[Contribution]) -> MetricRecord | None:
    """The means of what was counted over all groups, and of how many examples."""
    tallies = [one.tally for one in found]
    if not tallies:
        return None
    total = sum(tallies[1:], start=tallies[0])
    return MetricRecord({**total.metrics(), "num-examples": total.n})


def _vector(contribution: Contribution) -> F32:
    return np.concatenate(list(contribution.vector.chunks()))
