"""Whose key signed what, long after."""

import os
from datetime import UTC, datetime, timedelta

import pytest

from wardround.errors import LocalError, RemoteError
from wardround.evidence_identity import (
    RESERVED_SERVER_NAME,
    authority_pem,
    issue_server_certificate,
    read_authority,
    signer,
    valid_until,
)
from wardround.identity import Authority, issue_certificate, make_authority
from wardround.signing_key import SigningKey

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ROOT, KEY = SigningKey.make(os.urandom), SigningKey.make(os.urandom)
DER = make_authority(ROOT, "cardio", not_before=NOW, not_after=NOW + timedelta(days=3650), random=os.urandom)


def site(first: int, last: int) -> bytes:
    """A certificate of Hospital A from and until so many days after `NOW`."""
    return issue_certificate(
        DER,
        ROOT,
        name="Hospital A",
        public=KEY.public,
        not_before=NOW + timedelta(days=first),
        not_after=NOW + timedelta(days=last),
        random=os.urandom,
    )


def test_the_servers_key_is_certified_for_as_long_as_the_authority() -> None:
    der = issue_server_certificate(DER, ROOT, KEY.public, random=os.urandom)
    for days in (0, 1000, 3650):
        at = NOW + timedelta(days=days)
        assert signer(Authority(DER), der, RESERVED_SERVER_NAME, at) == KEY.public
    assert valid_until(der) == NOW + timedelta(days=3650)
    for days in (-1, 3651):
        with pytest.raises(RemoteError, match="that is valid on"):
            signer(Authority(DER), der, RESERVED_SERVER_NAME, NOW + timedelta(days=days))


@pytest.mark.parametrize(("days", "good"), [(4, False), (5, True), (20, True), (35, True), (36, False)])
def test_a_certificate_counts_at_the_time_of_the_signature(days: int, good: bool) -> None:
    at = NOW + timedelta(days=days)
    if good:
        assert signer(Authority(DER), site(5, 35), "Hospital A", at) == KEY.public
    else:
        with pytest.raises(RemoteError, match="Hospital A: expected a certificate that is valid on"):
            signer(Authority(DER), site(5, 35), "Hospital A", at)


def test_another_name_or_authority_is_refused() -> None:
    with pytest.raises(RemoteError, match="expected a certificate of this name"):
        signer(Authority(DER), site(0, 30), RESERVED_SERVER_NAME, NOW)
    other = SigningKey.make(os.urandom)
    der = make_authority(other, "cardio", not_before=NOW, not_after=NOW + timedelta(days=9), random=os.urandom)
    with pytest.raises(RemoteError, match="of the run's authority"):
        signer(Authority(der), site(0, 30), "Hospital A", NOW)


def test_the_authority_is_read_as_pem_and_as_der() -> None:
    pem = authority_pem(DER)
    assert pem.startswith(b"-----BEGIN CERTIFICATE-----")
    for data in (pem, DER, b"\n" + pem):
        assert read_authority(data, "ca.pem").fingerprint == Authority(DER).fingerprint


@pytest.mark.parametrize(
    "data", [b"", b"x", b"-----BEGIN CERTIFICATE-----\n", DER[:-1], site(0, 9), b"-----BEGIN " + b"x" * (1 << 17)]
)
def test_what_is_no_authority_is_refused(data: bytes) -> None:
    with pytest.raises(LocalError, match=r"ca\.pem: expected the certificate of the federation's identity authority"):
        read_authority(data, "ca.pem")
