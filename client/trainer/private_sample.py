"""Which rows take part in a noisy step: a secret sample of rows, or of patients with all their rows."""

from dataclasses import dataclass

import numpy as np

from wardround.client.data.site_data import SiteData
from wardround.errors import LocalError
from wardround.plan import Plan
from wardround.plan_privacy import Sampling, Unit
from wardround.strategies.privacy.secure_random import SecureRandom
from wardround.strategies.privacy.terms import Terms
from wardround.vector import I64

__all__ = ["Units"]


@dataclass(frozen=True, slots=True)
class Units:
    """A site's training rows by unit: unit u has the rows `rows[starts[u]:starts[u + 1]]`, `most` at most.

    A unit that has withdrawn has none, and is drawn as before.
    """

    rows: I64
    starts: I64
    most: int

    @classmethod
    def of(cls, plan: Plan, data: SiteData) -> "Units":
        """The units that `plan` hides at a site.

        Raises LocalError for a site without training rows, without patients where those are hidden, and for a patient
        with more rows than the plan's max_rows, since the noise would be too small for them.
        """
        count = len(data.train)
        if count == 0:
            raise LocalError(f"site {data.site}: expected at least one training row, got none")
        if plan.privacy.unit is not Unit.PATIENT:
            return cls(np.arange(count), _with_empty(np.arange(count + 1), data.gone_rows), 1)
        if data.patients is None:
            raise LocalError(f"site {data.site}: expected a patient of each training row (data.patient), got none")
        sizes = np.bincount(data.patients)
        if (largest := int(sizes.max())) > plan.privacy.max_rows:
            limit = f"at most {plan.privacy.max_rows} training rows of one patient (privacy.max_rows)"
            raise LocalError(f"site {data.site}: expected {limit}, got {largest}")
        starts = _with_empty(np.concatenate(([0], np.cumsum(sizes))), data.gone_patients)
        return cls(np.argsort(data.patients, kind="stable"), starts, largest)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def rows_of(self, units: I64) -> I64:
        """All rows of the given units, shape (rows,)."""
        if self.most == 1 and len(self) == len(self.rows):
            return self.rows.take(units)
        sizes = np.diff(self.starts)[units]
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        found: I64 = self.rows.take(np.repeat(self.starts[units], sizes) + within)
        return found

    def draw(self, terms: Terms, random: SecureRandom) -> I64:
        """The rows of one step's units, drawn as `terms` claim; there may be none. Raises LocalError for a shuffle."""
        if terms.sampling is Sampling.FULL:
            return self.rows
        if terms.sampling is Sampling.POISSON:
            return self.rows_of(random.chosen(len(self), terms.rate))
        if terms.sampling is Sampling.FIXED_SIZE:
            return self.rows_of(random.draw(len(self), int(terms.drawn)))
        raise LocalError(f"privacy.sampling: expected full, poisson or fixed-size, got {terms.sampling.value}")


def _with_empty(starts: I64, units: int) -> I64:
    """With so many units at the end that have no rows."""
    return np.append(starts, np.full(units, starts[-1])) if units else starts
