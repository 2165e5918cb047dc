"""Numbers and names as a report says them."""

from collections.abc import Sequence

from wardround.server.runs.comparison import Estimate

__all__ = [
    "LOWER_IS_BETTER",
    "METRICS",
    "count",
    "difference",
    "duration",
    "estimate",
    "interval",
    "listed",
    "metric",
    "number",
    "sentence",
]

METRICS = {
    "auc": "AUC",
    "accuracy": "accuracy",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "brier": "Brier score",
    "calibration_error": "calibration error",
    "rmse": "RMSE",
    "mae": "mean absolute error",
    "r2": "R²",
    "loss": "loss",
}
LOWER_IS_BETTER = {"brier", "calibration_error", "rmse", "mae", "loss"}
_SHARES = {"accuracy", "sensitivity", "specificity"}
_UNBOUNDED = {"rmse", "mae"}
_NUMERALS = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve")


def metric(name: str, unit: str = "") -> str:
    """The metric's name for people, with its unit."""
    shown = METRICS.get(name, name)
    return f"{shown} ({unit})" if unit and name in _UNBOUNDED else shown


def number(name: str, value: float) -> str:
    """A metric's value: shares in per cent, errors with three digits, all else with three decimals."""
    if name in _SHARES:
        shown = f"{100 * value:.1f} %"
    elif name in _UNBOUNDED:
        shown = f"{value:#.3g}" if 0 < abs(value) < 100 else f"{value:.0f}"
    else:
        shown = f"{value:.3f}"
    return shown.replace("-", "−")


def interval(name: str, found: Estimate) -> str:
    """`0.971 to 0.998`; empty when there is no interval."""
    if found.low is None or found.high is None:
        return ""
    return f"{number(name, found.low)} to {number(name, found.high)}"


def estimate(name: str, found: Estimate | None) -> str:
    """For a table: `0.993 (0.971–0.998)`, or `to` between negative limits; a dash when there is none."""
    if found is None:
        return "–"
    limits = interval(name, found).replace(" %", "")
    if "−" not in limits:
        limits = limits.replace(" to ", "–")
    return number(name, found.value) + (f" ({limits})" if limits else "")


def difference(name: str, found: Estimate | None) -> str:
    """A signed difference with its interval; of shares, in percentage points."""
    if found is None:
        return "–"
    unit = " pp" if name in _SHARES else ""
    shown = f"{_signed(name, found.value)}{unit}"
    if found.low is None or found.high is None:
        return shown
    return f"{shown} ({_signed(name, found.low)} to {_signed(name, found.high)})"


def _signed(name: str, value: float) -> str:
    digits = number(name, abs(value)).removesuffix(" %")
    sign = "" if not float(digits) else "+" if value > 0 else "−"
    return f"{sign}{digits}"


def count(n: int, noun: str, plural: str = "", *, spelled: bool = False) -> str:
    """`1 hospital`, `10 hospitals`, or spelled out to begin a sentence: `Ten hospitals`."""
    shown = _NUMERALS[n] if spelled and n < len(_NUMERALS) else f"{n:,}".replace(",", "\u2009")
    return f"{shown} {noun if n == 1 else plural or noun + 's'}"


def sentence(said: str) -> str:
    """`said` with a capital and a full stop."""
    return f"{said[0].upper()}{said[1:]}."


def duration(seconds: float) -> str:
    """`0.8 s`, `42 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
