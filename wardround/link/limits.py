"""The bounds of a link. Both ends have their own; neither believes the other's."""

from dataclasses import dataclass

__all__ = ["Limits", "ciphertext_bytes"]

_CIPHERTEXTS, _FIXED_BYTES = 9, 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one end takes from the other at most, and how long it waits."""

    most_frame_bytes: int = (1 << 20) + (1 << 16)
    """A message of the stream: a chunk of 1 MiB, and what goes with it."""
    chunk_bytes: int = 1 << 20
    window_bytes: int = 4 << 20
    """How much of a transfer may be on its way: what a receiver allows beyond what it has."""
    most_windows_bytes: int = 16 << 20
    """The same of all transfers together, where each has 256 KiB at least."""
    most_calls: int = 64
    """Calls of a site that are not answered yet."""
    most_call_bytes: int = 1 << 32
    """Of all open calls of a site together."""
    most_order_bytes: int = 4 << 20
    """Every order has the means and deviations of all number columns in it."""
    most_spec_bytes: int = 1 << 16
    most_small_bytes: int = 1 << 26
    """Of all open calls of a site together, without their models: what no approval of a model's size bounds."""
    most_notices: int = 1024
    """Notices that wait to be sent."""
    most_streams: int = 4096
    """Connections that the server holds at the same time, strangers' included."""
    hello_s: float = 10.0
    """Within this a peer has finished its handshake and, once more, said what it is."""
    stall_s: float = 60.0
    """A transfer that stands still for so long is cut, with its stream."""
    keepalive_s: float = 30.0
    keepalive_answer_s: float = 20.0
    most_clock_skew_s: float = 300.0
    first_retry_s: float = 0.5
    most_retry_s: float = 60.0

    def __post_init__(self) -> None:
        if not 0 < self.chunk_bytes <= min(self.window_bytes, self.most_frame_bytes - 1024):
            raise ValueError("expected chunks that fit into a frame and into the window")


def ciphertext_bytes(model_bytes: int) -> int:
    """Of an update of a model of so many bytes, or of a sum of updates, as ciphertexts of BFV: no more than this.

    At the worst an update is padded to twice its length and a slot holds one value. Then 4094 values of 4 bytes are two
    polynomials of 4096 coefficients in 8 bytes: 8.01 times the model, headers aside. See `strategies/he/he_plan`.
    """
    return _CIPHERTEXTS * model_bytes + _FIXED_BYTES
