"""Invitations: what was made is read, and each slip of a hand is named."""

import base64
import hashlib

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from wardround.invitation import Invitation, InvitationError, canonical_url, host_and_port, read_invitation, token_hash

MADE = Invitation(url="https://fl.example.org:8443", token=bytes(range(16)), authority=bytes(range(32)))
TEXT = MADE.text()


def test_an_invitation_is_this_line() -> None:
    """The line is an interface: those that lie in a mailbox must stay readable."""
    signed = b"wardround invitation 1\0https://fl.example.org:8443" + MADE.token + MADE.authority
    secret = MADE.token + MADE.authority + hashlib.sha256(signed).digest()[:4]
    assert TEXT == f"https://fl.example.org:8443#{base64.urlsafe_b64encode(secret).decode().rstrip('=')}"
    assert read_invitation(TEXT) == MADE


def test_nothing_shows_the_token() -> None:
    assert "token" not in repr(MADE)
    assert token_hash(MADE.token) == hashlib.sha256(b"wardround token 1\0" + MADE.token).digest()


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32), st.integers(1, 65535))
def test_what_was_made_is_read(token: bytes, authority: bytes, port: int) -> None:
    made = Invitation(url=f"https://a-b.example:{port}", token=token, authority=authority)
    assert read_invitation(f"  {made.text()}\n") == made


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("HTTPS://FL.Example.org:8443", "https://fl.example.org:8443"),
        ("https://fl.example.org:8443/", "https://fl.example.org:8443"),
        ("https://fl.example.org", "https://fl.example.org:443"),
        ("https://10.1.2.3:8443", "https://10.1.2.3:8443"),
        ("https://[::1]:8443", "https://[::1]:8443"),
        ("https://[0:0::1]", "https://[::1]:443"),
    ],
)
def test_an_address_has_one_spelling(written: str, url: str) -> None:
    assert canonical_url(written) == url
    made = Invitation(url=url, token=MADE.token, authority=MADE.authority)
    assert read_invitation(f"{written}#{made.text().partition('#')[2]}") == made
    host, port = host_and_port(url)
    assert "[" not in host
    assert port in (443, 8443)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected https://HOST:PORT#..., got ''"),
        (TEXT.replace("https://", "http://"), "expected https://HOST:PORT#"),
        (TEXT.partition("//")[2], "expected https://HOST:PORT#"),
        ("https://", "expected https://HOST:PORT"),
        ("https://a:0#x", "expected https://HOST:PORT"),
        ("https://a:99999#x", "expected a port of 1 to 65535"),
        ("https://a/b#x", "expected a host and a port alone before #"),
        ("https://a?b#x", "expected a host and a port alone before #"),
        ("https://user:secret@a#x", "expected a host and a port alone before #"),
        ("https://a b#x", "expected a host name or an IP address"),
        ("https://ä.org#x", "expected a host name or an IP address"),
        ("https://[::1#x", "copy the whole line"),
        ("https://fl.example.org:8443", "the part after # is missing; put the whole line between quotes"),
        ("https://fl.example.org:8443#", "the part after # is missing"),
        (TEXT[:-1], "expected 70 letters after #, got 69: the end is cut off"),
        (TEXT + "A", "expected 70 letters after #, got 71: there is more than the invitation"),
        (TEXT[:-3] + "=" + TEXT[-2:], "expected letters, digits, - and _ after #, got '='"),
        (TEXT[:40] + "\n" + TEXT[41:], "expected letters, digits, - and _ after #, got a blank or a line's end"),
        (TEXT[:40] + "\x1b" + TEXT[41:], "got '\ufffd'"),
        (TEXT.replace("example", "exmaple"), r"its check does not fit.*https://fl.exmaple.org:8443"),
        (TEXT.replace("8443", "8444"), "its check does not fit"),
        ("https://a#" + "x" * 2000, "at most 1024 letters"),
    ],
)
def test_each_slip_is_named(text: str, message: str) -> None:
    with pytest.raises(InvitationError, match=f"invitation: .*{message}") as caught:
        read_invitation(text)
    assert "\n" not in str(caught.value)


@given(st.integers(0, 69), st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"))
def test_one_wrong_letter_is_found_and_the_token_not_shown(at: int, letter: str) -> None:
    address, secret = TEXT.split("#")
    assume(secret[at] != letter)
    wrong = secret[:at] + letter + secret[at + 1 :]
    with pytest.raises(InvitationError, match="its check does not fit") as caught:
        read_invitation(f"{address}#{wrong}")
    assert wrong[:10] not in str(caught.value)


@given(st.text(max_size=200))
def test_any_text_is_an_invitation_or_refused(text: str) -> None:
    for line in (text, f"https://{text}", f"https://a:1#{text}"):
        with pytest.raises(InvitationError):
            read_invitation(line)


@pytest.mark.parametrize(
    ("url", "token", "authority"),
    [
        ("http://a:1", 16, 32),
        ("https://A:1", 16, 32),
        ("https://a", 16, 32),
        ("https://a:1", 15, 32),
        ("https://a:1", 16, 31),
    ],
)
def test_another_form_cannot_be_made(url: str, token: int, authority: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        Invitation(url=url, token=bytes(token), authority=bytes(authority))


def test_the_last_letter_has_one_spelling_though_it_has_bits_to_spare() -> None:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    read = []
    for letter in letters:
        try:
            read.append(read_invitation(TEXT[:-1] + letter))
        except InvitationError:
            continue
    assert read == [MADE]
