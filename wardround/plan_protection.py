"""The section [protection]: what hides a site's update from the server, and what that tolerates."""

from dataclasses import dataclass, fields
from enum import StrEnum

from wardround.decoding import PlanError, check_bounds, key

__all__ = ["Protection", "ProtectionMode", "TableChoice"]


class ProtectionMode(StrEnum):
    OFF = "off"
    MASKING = "masking"
    BFV = "bfv"


class TableChoice(StrEnum):
    """When chance puts sites into groups."""

    ONCE = "once"
    EACH_ROUND = "each-round"


@dataclass(frozen=True, slots=True, kw_only=True)
class Protection:
    """[protection]: what hides an update from the server."""

    mode: ProtectionMode = key(
        ProtectionMode.OFF,
        doc="`off`: the server sees every update; `masking`: secure aggregation, the server learns sums of groups "
        "only; `bfv`: homomorphic encryption, the server adds what it cannot read and members open the sum",
    )
    groups: int = key(1, doc="groups of sites; the server learns the sum of each, and robust rules see these", ge=1)
    colluding: int | None = key(
        None,
        doc="sites, of all, that may help the server to spy without learning more; absent: 1 with masking, 0 with bfv",
        ge=0,
    )
    dropout: float = key(0.0, doc="share of each group and committee that may be lost in a round", ge=0, lt=1)
    min_roster: int | None = key(None, doc="fewest sites that keys are agreed on with; absent: all", ge=1)
    min_survivors: int | None = key(
        None, doc="fewest updates in a group's sum; absent: the most that tolerate `dropout`", ge=1
    )
    tables: TableChoice = key(
        TableChoice.ONCE,
        doc="when sites are put into groups: `once` for the run, or `each-round`, with differential privacy only",
    )
    value_bits: int | None = key(
        None, doc="bits of an encoded value; absent: as many as fit, at most 24. With `skellam`: no key", ge=2, le=31
    )
    sealed_model: bool = key(
        False,
        doc="whether the server keeps the released model only as a file that members open "
        "(`wardround client model open`); with bfv only",
    )
    metrics: tuple[str, ...] = key((), doc="a Flower app's metrics whose sums leave the sites, by name; others do not")

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.mode is ProtectionMode.OFF:
            for field in fields(self):
                if field.name == "colluding" and self.colluding == 1:
                    continue  # plans that were stored before this key could be absent have it
                if getattr(self, field.name) != field.default:
                    modes = '"bfv"' if field.name == "sealed_model" else '"masking" or "bfv"'
                    raise PlanError("mode", f"{modes}, since {field.name} is set", self.mode.value)
        if len(set(self.metrics)) != len(self.metrics) or not all(self.metrics):
            raise PlanError("metrics", "every name once, none of them empty", self.metrics)

    @property
    def on(self) -> bool:
        return self.mode is not ProtectionMode.OFF

    @property
    def homomorphic(self) -> bool:
        return self.mode is ProtectionMode.BFV
