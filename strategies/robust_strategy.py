"""Robust rules inside any Flower app: Flower's FedAvg with another way to combine the replies."""

import logging
import math
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from wardround import plan_robust
from wardround.contribution import Report, Verdict
from wardround.errors import LocalError
from wardround.strategies.flower_replies import GlobalModel, answers_of, contributions_of, node_of
from wardround.strategies.rules.build import build_robust
from wardround.strategies.rules.fltrust import FlTrust
from wardround.strategies.rules.robust import Robust, chain
from wardround.strategies.rules.rule import Memory, RoundContext, VectorRule
from wardround.vector import F32

__all__ = ["RobustStrategy"]

_log = logging.getLogger("flwr")


class RobustStrategy(FedAvg):
    """Flower's FedAvg whose arrays are combined by a robust rule: `RobustStrategy(Krum(2), fraction_train=0.5)`.

    `rule` is a rule, or `chain(...)` with pre-aggregators, or a `Robust` with detectors too; `named` takes names.
    What follows is FedAvg's, in its order. The floating-point arrays of the global model are learned; all others stay
    as they are in it. What nodes claim about themselves (`weighted_by_key`) weighs their metrics, never their arrays.

    `root_update(server_round, arrays)` returns the arrays after training on the server's own rows (FLTrust); `seed` is
    for draws that nodes should not foresee, by default from the operating system.

    A reply whose arrays are not those of the global model, or not finite, is refused and the round goes on without it.
    When too few are left the global model stays. `reports` has a line for each reply, by round, with the node's id in
    `members`; `memory` is what the rule and the detectors keep between rounds.
    """

    def __init__(
        self,
        rule: VectorRule | Robust,
        *settings: Any,
        root_update: Callable[[int, ArrayRecord], ArrayRecord] | None = None,
        seed: int | None = None,
        **named_settings: Any,
    ) -> None:
        super().__init__(*settings, **named_settings)
        self.rule = rule if isinstance(rule, Robust) else chain(rule)
        if isinstance(self.rule.rule, FlTrust) and root_update is None:
            raise ValueError("expected a root_update, which FlTrust compares with, got none")
        self.root_update = root_update
        self.seed = secrets.randbits(63) if seed is None else seed
        self.reports: dict[int, Report] = {}
        self.memory: Memory = {}
        self._model: GlobalModel | None = None

    @classmethod
    def named(
        cls,
        rule: str,
        *settings: Any,
        num_byzantine: int,
        pre: Sequence[str] = (),
        detectors: Sequence[str] = (),
        options: Mapping[str, Mapping[str, bool | int | float]] | None = None,
        **named_settings: Any,
    ) -> Self:
        """The same with registered names, as in a plan: `named("trimmed_mean", num_byzantine=2, pre=["nnm"])`.

        `options` are by piece: `{"bucketing": {"size": 2}}`. Raises PlanError for what is not known.
        """
        if rule == plan_robust.OFF:
            raise ValueError(f"expected a robust rule, got {rule!r}")
        section = plan_robust.Robust(
            rule=rule,
            num_byzantine=num_byzantine,
            pre=tuple(pre),
            detectors=tuple(detectors),
            options={name: dict(values) for name, values in (options or {}).items()},
            root_examples=int(rule == "fltrust"),  # any number: the rows are those of `root_update`
        )
        return cls(build_robust(section), *settings, **named_settings)

    def summary(self) -> None:
        """Log the rule, then what FedAvg logs."""
        parts = (*self.rule.pre, self.rule.rule, *(detector for _, detector in self.rule.detectors))
        _log.info("\t├──> Rule: %s", " | ".join(map(repr, parts)))
        super().summary()

    # -- Flower's interface -----------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """FedAvg's messages; the arrays are noted, since updates are differences to them.

        Raises LocalError for a global model that no update can be added to.
        """
        self._model = GlobalModel.of(arrays)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The new global model, or None when it stays; the metrics of the replies that were not refused.

        Raises LocalError before `configure_train`, and for a `root_update` that returns other arrays.
        """
        model = self._model
        if model is None:
            raise LocalError("aggregate_train: expected configure_train before it, with the global model")
        answers = answers_of("aggregate_train", replies)
        if not answers and self.fraction_train == 0.0:
            return None, None
        contributions, refused = contributions_of(answers, model)
        context = RoundContext(
            size=model.layout.size,
            round=server_round,
            seed=self.seed,
            memory=self.memory,
            references=self._references(server_round, model),
            model=model.vector,
        )
        made = self.rule.apply(contributions, context)
        self.memory = made.memory
        report = Report(tuple(sorted((*made.report.lines, *refused), key=lambda line: line.members)))
        self.reports[server_round] = report
        for line in report.lines:
            if line.verdict is Verdict.REFUSED:
                _log.warning("\t> Refused the reply of node %s: %s", line.members[0], line.reason)
        arrays, reason = None, made.reason
        if made.vector is not None and (arrays := model.plus(made.vector)) is None:
            reason = "the new model would not be finite"
        if arrays is None:
            _log.warning("\t> Round %d: the global model stays as it was: %s", server_round, reason)
        without = {line.members[0] for line in report.lines if line.verdict is Verdict.REFUSED}
        usable = [answer for answer in answers if node_of(answer) not in without]
        return arrays, self._averaged(usable, self.train_metrics_aggr_fn)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """FedAvg's average of the metrics, without replies whose metrics cannot be averaged with the others'."""
        return self._averaged(answers_of("aggregate_evaluate", replies), self.evaluate_metrics_aggr_fn)

    # -- pieces -----------------------------------------------------------------------------------

    def _references(self, server_round: int, model: "GlobalModel") -> dict[str, F32]:
        if self.root_update is None:
            return {}
        try:
            root = model.update(self.root_update(server_round, model.record()))
        except ValueError as error:
            raise LocalError(f"root_update: {error}") from None
        if not np.isfinite(root).all():
            raise LocalError("root_update: expected finite arrays")
        return {"root": root}

    def _averaged(
        self, answers: Sequence[Message], average: Callable[[list[RecordDict], str], MetricRecord]
    ) -> MetricRecord | None:
        """The average of what the answers report, or None when there is nothing to average.

        Flower ends the run when one reply's metrics differ from the others'; here that reply's metrics are left out.
        """
        kinds = [_kind(answer.content, self.weighted_by_key) for answer in answers]
        counts = Counter(kind for kind in kinds if kind is not None)
        commonest = max(counts, key=lambda kind: counts[kind], default=None)
        averaged = []
        for answer, kind in zip(answers, kinds, strict=True):
            if kind is not None and kind == commonest:
                averaged.append(answer.content)
            else:
                expected = f"one MetricRecord of finite values, with {self.weighted_by_key!r}, as most replies have it"
                _log.warning("\t> Left out the metrics of node %s: expected %s", node_of(answer), expected)
        if not any(_weight(content, self.weighted_by_key) for content in averaged):
            return None
        return average(averaged, self.weighted_by_key)


_Kind = tuple[str, frozenset[tuple[str, int | None]]]
"""What metrics can be averaged with each other: the record's name, the names in it, and how long lists are."""


def _kind(content: RecordDict, weight_key: str) -> _Kind | None:
    """None for metrics that cannot be averaged at all."""
    records = content.metric_records
    if len(records) != 1:
        return None
    [(name, record)] = records.items()
    for value in record.values():
        if not all(math.isfinite(one) for one in (value if isinstance(value, list) else [value])):
            return None
    weight = record.get(weight_key)
    if not isinstance(weight, int | float) or weight < 0:
        return None
    return name, frozenset((key, len(value) if isinstance(value, list) else None) for key, value in record.items())


def _weight(content: RecordDict, weight_key: str) -> float:
    [record] = content.metric_records.values()
    weight = record[weight_key]
    return float(weight) if isinstance(weight, int | float) else 0.0
