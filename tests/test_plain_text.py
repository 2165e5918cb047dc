from hypothesis import given
from hypothesis import strategies as st

from wardround.plain_text import plain_text


@given(st.text(st.characters(), max_size=2000) | st.just("\ud800" * 9) | st.just("\x1b]0;owned\x07\x1b[2J"))
def test_whatever_comes_is_one_printable_line_of_bounded_length(text: str) -> None:
    shown = plain_text(text)
    assert len(shown) <= 200 and shown.isprintable()
    shown.encode()  # no surrogates


def test_plain_words_stay_as_they_are_and_long_ones_are_cut() -> None:
    assert plain_text("site-01 (Malmö): late") == "site-01 (Malmö): late"
    assert plain_text("x" * 500) == "x" * 199 + "…"
    assert plain_text("a\nb\x1b[0m") == "a\ufffdb\ufffd[0m"
