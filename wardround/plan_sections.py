"""The sections of a plan, each a frozen dataclass whose keys carry their documentation and bounds."""

from dataclasses import dataclass
from enum import StrEnum

from wardround.decoding import PlanError, check_bounds, key
from wardround.path_below import is_below
from wardround.registry import names

__all__ = [
    "BatchNorm",
    "Clipping",
    "Cohort",
    "Column",
    "ColumnType",
    "Data",
    "Evaluation",
    "Image",
    "Missing",
    "Optimizer",
    "Schedule",
    "Select",
    "ServerOptimizer",
    "ServerOptimizerName",
    "Standardize",
    "Target",
    "TaskSection",
    "Training",
    "Weighting",
]

FILE_SOURCES = ("csv", "parquet")
PYTHON_SOURCES = ("arrays", "app")


class ColumnType(StrEnum):
    NUMBER = "number"
    CATEGORY = "category"


class Standardize(StrEnum):
    NONE = "none"
    PLAN = "plan"
    RANGE = "range"
    FEDERATED = "federated"


class Missing(StrEnum):
    REFUSE = "refuse"
    DROP_ROW = "drop-row"


class Weighting(StrEnum):
    EXAMPLES = "examples"
    CAPPED = "capped"
    UNIFORM = "uniform"


class Optimizer(StrEnum):
    SGD = "sgd"
    ADAM = "adam"
    ADAMW = "adamw"


class Schedule(StrEnum):
    CONSTANT = "constant"
    STEP = "step"
    COSINE = "cosine"


class BatchNorm(StrEnum):
    AVERAGE = "average"
    LOCAL = "local"


class ServerOptimizerName(StrEnum):
    FEDAVG = "fedavg"
    FEDAVGM = "fedavgm"
    FEDADAM = "fedadam"
    FEDYOGI = "fedyogi"
    FEDADAGRAD = "fedadagrad"


class Select(StrEnum):
    LAST = "last"
    BEST = "best"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSection:
    """[task]: what is learned. Either `name` or `flower_app`."""

    name: str = key("", doc="registered task, e.g. `tabular-classifier`")
    model: str = key("", doc="architecture within the task, e.g. `logistic`, `mlp`, `cnn`; empty: the task's default")
    hidden: tuple[int, ...] = key((64, 32), doc="widths of the hidden layers of `mlp`")
    options: dict[str, str | bool | int | float] = key({}, doc="further options that a third-party task reads")
    code: str | None = key(
        None, doc="folder below the plan's; every file in it is part of the plan's digest (the code bundle)"
    )
    entry: str | None = key(None, doc="`module:attribute` inside `code` that is the task (a `Task` class)")
    flower_app: str | None = key(None, doc="`module:attribute` of a Flower ClientApp that trains instead of a task")
    flower_initial: str | None = key(
        None, doc="`module:attribute` of a function that returns the initial ArrayRecord for `flower_app`"
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        if bool(self.name or self.entry) == bool(self.flower_app):
            raise PlanError("name", "either a task name (or `entry`) or `flower_app`, not both or neither")
        if self.name and self.entry:
            raise PlanError("name", "none beside `entry`", self.name)
        if self.flower_app and not self.flower_initial:
            raise PlanError(
                "flower_initial", "a function that returns the initial ArrayRecord, since `flower_app` is set"
            )
        if self.code is not None and not is_below(self.code, allow_itself=True):  # no site would take it
            raise PlanError("code", "a folder below the plan's, in its plain spelling, as in code or a/b", self.code)
        if self.entry and not self.code:
            raise PlanError("code", "the folder that holds `entry`")
        if any(width < 1 for width in self.hidden):
            raise PlanError("hidden", "widths of at least 1", self.hidden)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One input column. Every site builds the same vector from the same list of columns."""

    name: str = key(doc="the column's name in the data")
    type: ColumnType = key(ColumnType.NUMBER, doc="`number` or `category` (one-hot encoded)")
    unit: str = key("", doc="unit of a number, for people")
    range: tuple[float, float] | None = key(None, doc="smallest and largest valid value of a number")
    categories: tuple[str, ...] = key((), doc="all values of a category, in the order of the one-hot encoding")
    mean: float | None = key(None, doc='constant subtracted when `standardize = "plan"`')
    std: float | None = key(None, doc='constant divided by when `standardize = "plan"`', gt=0)

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.range is not None and not self.range[0] < self.range[1]:
            raise PlanError("range", "[smallest, largest] with smallest < largest", self.range)
        if self.type is ColumnType.CATEGORY:
            if len(self.categories) < 2 or len(set(self.categories)) != len(self.categories):
                raise PlanError("categories", "at least two different values for a category", self.categories)
            if self.range is not None or self.mean is not None or self.std is not None:
                raise PlanError("type", "`number` for a column with range, mean or std", str(self.type))
        elif self.categories:
            raise PlanError("type", "`category` for a column with categories", str(self.type))

    @property
    def width(self) -> int:
        """How many inputs of the model the column fills."""
        return len(self.categories) if self.type is ColumnType.CATEGORY else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is predicted: classes (classification) or a range (regression)."""

    name: str = key(doc="the target's column name")
    classes: tuple[str, ...] = key((), doc="class labels; of two, the second is the positive one")
    range: tuple[float, float] | None = key(None, doc="smallest and largest value of a number to predict")
    unit: str = key("", doc="unit of a number to predict")

    def __post_init__(self) -> None:
        check_bounds(self)
        if bool(self.classes) == (self.range is not None):
            raise PlanError("classes", "either `classes` or `range`")
        if self.classes and (len(self.classes) < 2 or len(set(self.classes)) != len(self.classes)):
            raise PlanError("classes", "at least two different labels", self.classes)
        if self.range is not None and not self.range[0] < self.range[1]:
            raise PlanError("range", "[smallest, largest] with smallest < largest", self.range)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """Image inputs: channels x height x width, values mapped from `range` to [0, 1]."""

    shape: tuple[int, ...] = key(doc="[channels, height, width]")
    range: tuple[float, float] = key((0.0, 255.0), doc="pixel values that mean black and white")

    def __post_init__(self) -> None:
        check_bounds(self)
        if len(self.shape) != 3 or any(side < 1 for side in self.shape):
            raise PlanError("shape", "[channels, height, width], each at least 1", self.shape)
        if not self.range[0] < self.range[1]:
            raise PlanError("range", "[black, white] with black < white", self.range)


def _sources() -> tuple[str, ...]:
    return (*names("wardround.datasets"), *FILE_SOURCES, *PYTHON_SOURCES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """[data]: where the rows come from and what they mean."""

    source: str = key(
        doc="a registered data set, `csv`, `parquet`, `arrays` (given from Python) or `app` (a Flower app's own)",
        choices=_sources,
    )
    path: str | None = key(None, doc="file of a `csv` or `parquet` source, relative to the plan")
    target: Target | None = key(None, doc="what is predicted")
    columns: tuple[Column, ...] = key((), doc="the input columns, in the order of the model's inputs")
    image: Image | None = key(None, doc="image inputs instead of columns")
    standardize: Standardize = key(
        Standardize.NONE,
        doc="`plan`: by each column's mean and std; `range`: from its range to [−1, 1]; `federated`: by sums over all "
        "sites, in a first round; `none`",
    )
    patient: str | None = key(
        None, doc="column that says whose a row is; it stays at the site, and no patient's rows are split up"
    )
    missing: Missing = key(Missing.REFUSE, doc="rows with a missing value: refuse the data, or drop the row")
    validation: float = key(0.15, doc="share of a site's rows held out to steer training", ge=0, lt=1)
    test: float = key(0.2, doc="share of a site's rows held out for the final figures", ge=0, lt=1)
    min_examples: int = key(10, doc="fewest rows that a site may have", ge=1)
    allow_single_class: bool = key(False, doc="accept a site whose rows all have one class")

    def __post_init__(self) -> None:
        check_bounds(self)
        if (self.source in FILE_SOURCES) != (self.path is not None):
            raise PlanError("path", "a file for `csv` and `parquet`, and none otherwise", self.path)
        if self.source != "app" and self.target is None:
            raise PlanError("target", 'what is predicted, e.g. { name = "diagnosis", classes = ["no", "yes"] }')
        if self.source not in PYTHON_SOURCES and bool(self.columns) == (self.image is not None):
            raise PlanError("columns", "either `columns` or `image`")
        seen: set[str] = set()
        for column in self.columns:
            if column.name in seen or (self.target is not None and column.name == self.target.name):
                raise PlanError("columns", "every name once, and not the target's", column.name)
            seen.add(column.name)
        if self.validation + self.test >= 1:
            raise PlanError("test", "validation + test below 1", self.validation + self.test)
        self._check_standardize()

    def _check_standardize(self) -> None:
        for index, column in enumerate(self.columns):
            if column.type is ColumnType.CATEGORY:
                continue
            if self.standardize is Standardize.PLAN and (column.mean is None or column.std is None):
                raise PlanError(f"columns[{index}].mean", 'mean and std, since standardize = "plan"', column.mean)
            if self.standardize in (Standardize.FEDERATED, Standardize.RANGE) and column.range is None:
                raise PlanError(f"columns[{index}].range", f'a range, since standardize = "{self.standardize}"')
        if self.standardize is not Standardize.NONE and not self.columns:
            raise PlanError("standardize", '"none" for data without columns', str(self.standardize))

    @property
    def num_inputs(self) -> int:
        """Width of the model's input for tabular data."""
        return sum(column.width for column in self.columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """[cohort]: who takes part in a round."""

    size: int | None = key(None, doc="sites drawn for each round; absent: all", ge=1)
    min_replies: int | None = key(
        None,
        doc="updates needed by the deadline for the round to count, refused ones only up to `robust.num_byzantine`; "
        "absent: every drawn site's, less `robust.num_byzantine` as far as the rule allows; none where clients are "
        "hidden",
        ge=1,
    )
    without: tuple[str, ...] = key((), doc="sites that are left out of everything, by name")
    deadline_s: float | None = key(None, doc="how long the server waits for updates", unit="s", gt=0)
    weighting: Weighting = key(
        Weighting.EXAMPLES,
        doc="weight of an update: its `examples`, examples `capped` at `weight_cap`, or `uniform`",
    )
    weight_cap: int | None = key(None, doc='largest weight when `weighting = "capped"`', ge=1)

    def __post_init__(self) -> None:
        check_bounds(self)
        if (self.weighting is Weighting.CAPPED) != (self.weight_cap is not None):
            raise PlanError("weight_cap", 'a number exactly when weighting = "capped"', self.weight_cap)
        if len(set(self.without)) != len(self.without):
            raise PlanError("without", "every site once", self.without)
        if self.size is not None and self.min_replies is not None and self.min_replies > self.size:
            raise PlanError("min_replies", f"at most cohort.size = {self.size}", self.min_replies)


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """[training]: what each site does with the model that it receives."""

    optimizer: Optimizer = key(Optimizer.SGD, doc="local optimiser")
    lr: float = key(0.1, doc="local learning rate", gt=0)
    momentum: float = key(0.0, doc="momentum of `sgd`", ge=0, lt=1)
    nesterov: bool = key(False, doc="Nesterov momentum for `sgd`")
    weight_decay: float = key(0.0, doc="L2 penalty (`sgd`, `adam`) or decoupled decay (`adamw`)", ge=0)
    beta1: float = key(0.9, doc="first moment's decay of `adam`, `adamw`", ge=0, lt=1)
    beta2: float = key(0.999, doc="second moment's decay of `adam`, `adamw`", ge=0, lt=1)
    eps: float = key(1e-8, doc="added to the denominator of `adam`, `adamw`", gt=0)
    epochs: int | None = key(None, doc="passes over the site's training rows; absent: 1 unless `steps` is set", ge=1)
    steps: int | None = key(None, doc="optimiser steps instead of epochs; rows are re-shuffled when used up", ge=1)
    batch_size: int = key(32, doc="rows per step", ge=1)
    schedule: Schedule = key(Schedule.CONSTANT, doc="how lr changes over the rounds")
    schedule_every: int = key(10, doc="`step`: rounds between two drops", unit="rounds", ge=1)
    schedule_factor: float = key(
        0.5, doc="`step`: factor at each drop; `cosine`: the share of lr left in the last round", gt=0, le=1
    )
    gradient_clip_norm: float | None = key(None, doc="largest L2 norm of a batch's gradient", gt=0)
    proximal_mu: float = key(0.0, doc="FedProx: weight of ½‖w − w_global‖² in the local loss", ge=0)
    class_weights: tuple[float, ...] | str = key(
        (), doc='loss weight of each class; `"balanced"`: inverse frequency at the site; empty: none'
    )
    batch_norm: BatchNorm = key(
        BatchNorm.AVERAGE, doc="running statistics of BatchNorm: averaged like parameters, or kept `local`"
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.epochs is not None and self.steps is not None:
            raise PlanError("steps", "either epochs or steps", self.steps)
        if isinstance(self.class_weights, str):
            if self.class_weights != "balanced":
                raise PlanError("class_weights", 'a list of numbers or "balanced"', self.class_weights)
        elif any(weight <= 0 for weight in self.class_weights):
            raise PlanError("class_weights", "numbers above 0", self.class_weights)
        if self.nesterov and (self.optimizer is not Optimizer.SGD or self.momentum == 0):
            raise PlanError("nesterov", 'optimizer = "sgd" with momentum above 0')
        if self.momentum and self.optimizer is not Optimizer.SGD:
            raise PlanError("momentum", '0 unless optimizer = "sgd"', self.momentum)

    def lr_at(self, round_number: int, rounds: int) -> float:
        """The local learning rate in round `round_number` (1-based) of `rounds`."""
        import math

        if self.schedule is Schedule.STEP:
            return self.lr * self.schedule_factor ** ((round_number - 1) // self.schedule_every)
        if self.schedule is Schedule.COSINE:
            progress = (round_number - 1) / max(rounds - 1, 1)
            floor = self.schedule_factor
            return self.lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))
        return self.lr


@dataclass(frozen=True, slots=True, kw_only=True)
class Clipping:
    """[clipping]: bounds on what a site sends."""

    clip_norm: float | None = key(None, doc="largest L2 norm of an update; a longer one is scaled down", gt=0)

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptimizer:
    """[server_optimizer]: how the averaged update changes the model (Reddi et al. 2021, Algorithm 2)."""

    name: ServerOptimizerName = key(ServerOptimizerName.FEDAVG, doc="server optimiser")
    lr: float = key(1.0, doc="server learning rate", gt=0)
    momentum: float = key(0.9, doc="momentum of `fedavgm`", ge=0, lt=1)
    beta1: float = key(0.9, doc="first moment's decay of the adaptive optimisers", ge=0, lt=1)
    beta2: float = key(0.99, doc="second moment's decay of `fedadam`, `fedyogi`", ge=0, lt=1)
    tau: float = key(1e-3, doc="adaptivity: added to the denominator", gt=0)

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """[evaluation]: how the model is judged while it trains."""

    every: int = key(1, doc="rounds between two evaluations on the sites' validation rows; 0: never", ge=0)
    sites: int | None = key(None, doc="sites drawn for an evaluation; absent: all", ge=1)
    patience: int | None = key(None, doc="stop after so many evaluations without a better validation loss", ge=1)
    min_delta: float = key(0.0, doc="how much lower a validation loss must be to count as better", ge=0)
    select: Select = key(Select.LAST, doc="released model: of the `last` round, or the `best` on validation rows")

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.every == 0 and (self.patience is not None or self.select is Select.BEST):
            raise PlanError("every", 'at least 1, since patience or select = "best" needs evaluations', self.every)
