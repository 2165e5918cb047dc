"""Text that came from outside, made fit for a terminal, a log and a report."""

import re

__all__ = ["in_groups", "plain_text", "visible"]

_MOST = 200
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
"""Printable to Python, and nothing to see: Default_Ignorable_Code_Point of Unicode, Hangul fillers, empty braille."""


def plain_text(text: str, most: int = _MOST) -> str:
    """`text` on one line, at most `most` letters, with every character that is not printable replaced by `�`.

    Control codes would reach a person's terminal, lone surrogates cannot be encoded, and length is for others to pay.
    """
    shown = " ".join(visible(text[: 4 * most]).split())
    return shown if len(shown) <= most and len(text) <= 4 * most else shown[: most - 1] + "…"


def visible(text: str) -> str:
    """`text` with `�` for every letter that does not print, or prints nothing."""
    shown = text if text.isprintable() else "".join(one if one.isprintable() else "\ufffd" for one in text)
    return shown if shown.isascii() else _UNSEEN.sub("\ufffd", shown)


def in_groups(fingerprint: str) -> str:
    """A fingerprint in groups of four digits, to be read out by telephone."""
    return " ".join(fingerprint[at : at + 4] for at in range(0, len(fingerprint), 4))
