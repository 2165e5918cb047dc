"""Text that came from outside, made fit for a terminal, a log and a report."""

__all__ = ["in_groups", "plain_text"]

_MOST = 200


def plain_text(text: str, most: int = _MOST) -> str:
    """`text` on one line, at most `most` letters, with every character that is not printable replaced by `�`.

    Control codes would reach a person's terminal, lone surrogates cannot be encoded, and length is for others to pay.
    """
    shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in text[: 4 * most])
    shown = " ".join(shown.split())
    return shown if len(shown) <= most and len(text) <= 4 * most else shown[: most - 1] + "…"


def in_groups(fingerprint: str) -> str:
    """A fingerprint in groups of four digits, to be read out by telephone."""
    return " ".join(fingerprint[at : at + 4] for at in range(0, len(fingerprint), 4))
