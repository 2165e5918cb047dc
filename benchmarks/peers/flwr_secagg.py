"""What flwr's SecAgg+ computes in a round, by its own functions, in the order of its client mod and server workflow.

In flwr's favour: vectors are not turned into bytes and back (its mod and its workflow do that to each of them), shares
are neither encrypted nor decrypted, all of a model is one array, and keys are at hand in bytes. It runs in the
environment of the tests, where flwr is installed.
"""

import os

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

import numpy as np
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    factor_combine,
    factor_extract,
    get_parameters_shape,
    parameters_addition,
    parameters_mod,
    parameters_multiply,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import dequantize, quantize
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.supercore.primitives.asymmetric import (
    bytes_to_private_key,
    bytes_to_public_key,
    generate_key_pairs,
    private_key_to_bytes,
    public_key_to_bytes,
)

CLIPPING_RANGE, TARGET_RANGE, MOD_RANGE, MAX_WEIGHT = 8.0, 1 << 22, 1 << 32, 1000.0  # the workflow's defaults
WEIGHT = 100
QUANTISED_RATIO = round(WEIGHT / MAX_WEIGHT * TARGET_RANGE)


class FlwrMember:
    """One client: `public` is the key that others make a pair's mask from."""

    def __init__(self, node: int) -> None:
        private, public = generate_key_pairs()
        self.node, self.private, self.public = node, private_key_to_bytes(private), public_key_to_bytes(public)
        self.seed = os.urandom(32)

    def share(self, threshold: int, holders: int) -> None:
        """Shares of its two secrets, kept for `unmask`."""
        self.seed_shares = create_shares(self.seed, threshold, holders)
        self.key_shares = create_shares(self.private, threshold, holders)


def quantised(update):
    """The update times its weight, as integers."""
    return quantize(parameters_multiply([update], QUANTISED_RATIO / TARGET_RANGE), CLIPPING_RANGE, TARGET_RANGE)


def masked(member, others, update):
    """The third stage of the mod, from the update to what is sent."""
    parameters = factor_combine(QUANTISED_RATIO, quantised(update))
    shapes = [one.shape for one in parameters]
    parameters = parameters_addition(parameters, pseudo_rand_gen(member.seed, MOD_RANGE, shapes))
    for other in others:
        key = generate_shared_key(bytes_to_private_key(member.private), bytes_to_public_key(other.public))
        mask = pseudo_rand_gen(key, MOD_RANGE, shapes)
        combine = parameters_addition if member.node > other.node else parameters_subtraction
        parameters = combine(parameters, mask)
    return parameters_mod(parameters, MOD_RANGE)


def summed(vectors):
    """The workflow's sum of masked vectors."""
    total = None
    for vector in vectors:
        total = vector if total is None else parameters_addition(total, vector)
    return parameters_mod(total, MOD_RANGE)


def unmasked(total, members, threshold):
    """The workflow's last stage where nobody dropped out: seeds from shares, masks off, and the weighted mean."""
    for member in members:
        seed = combine_shares(member.seed_shares[:threshold])
        total = parameters_subtraction(total, pseudo_rand_gen(seed, MOD_RANGE, get_parameters_shape(total)))
    ratio, total = factor_extract(parameters_mod(total, MOD_RANGE))
    means = dequantize(total, CLIPPING_RANGE, TARGET_RANGE)
    for mean in means:
        mean += -(len(members) - 1) * CLIPPING_RANGE
        mean *= TARGET_RANGE / ratio
    return means


def one_mask(words, seed):
    """One mask made and added."""
    return parameters_addition([words], pseudo_rand_gen(seed, MOD_RANGE, [words.shape]))


def two_shared(secrets, threshold, holders):
    """Shares of each secret."""
    return [create_shares(secret, threshold, holders) for secret in secrets]


def zeros(size):
    """A vector of the type that masks are added to."""
    return np.zeros(size, dtype=np.int64)
