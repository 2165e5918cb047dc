"""Who made a certificate, for a person who has to find out what stands in the way."""

from cryptography import x509

from wardround.plain_text import plain_text

__all__ = ["issuer_of"]


def issuer_of(certificate: bytes) -> str:
    """The name of whoever issued a certificate (DER), as it says itself: nothing is checked."""
    try:
        return plain_text(x509.load_der_x509_certificate(certificate).issuer.rfc4514_string()) or "nobody"
    except ValueError:
        return "an unknown issuer"
