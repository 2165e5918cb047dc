"""Parameters of CKKS for one model, with a bound on how far an encrypted answer can be off.

A model is linear layers with a square between them. Its inputs come as one ciphertext a feature, with a row in every
slot, so weights are constants and nothing is rotated. Nothing is rescaled either: scales are exact powers of two that
grow from layer to layer, and the modulus has room for the last of them. So the error has few sources, and each has a
bound that holds always, not with a probability:

    fresh ciphertexts   rounding of the encoding, at most 1/2 in a coefficient, and SEAL's noise, at most 21
                        (`sample_poly_cbd` in native/src/seal/util/rlwe.cpp: the difference of two sums of 21 bits)
    weights             rounded to a multiple of 2^-weight_bits; the error is known, since the weights are
    relinearisation     noise of the keys times digits below each prime, over the special prime, and one rounding
                        (`switch_key_inplace` in native/src/seal/evaluator.cpp)
    floating point      the transforms of encoding and decoding in doubles, normwise (Higham 2002, theorem 24.2)

A slot is a sum over the N coefficients of a polynomial with factors of absolute value 1, so an error of at most e in
every coefficient is one of at most N e in a slot.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wardround.errors import LocalError
from wardround.vector import F64

__all__ = [
    "CANDIDATES",
    "LINEAR",
    "MAX_ERROR",
    "ONE_HIDDEN_LAYER",
    "Assurance",
    "Box",
    "Layer",
    "Network",
    "ParameterSet",
    "assure",
    "choose_parameters",
    "rounded_weights",
]

MAX_ERROR = 1e-3
"""The largest bound on the error of an output (a difference of logits) with which a model is used at all."""

_SECURE_BITS = {1024: 26, 2048: 53, 4096: 106, 8192: 214, 16384: 430, 32768: 868}
"""Bits of the modulus, special prime and all, for 128-bit security with a ternary key, by the estimates of Bossuat et
al. 2024, table 5.2. SEAL's tc128 allows up to 13 bits more: it has those of Albrecht et al. 2018, table 1."""

_NOISE = 22
"""Above 21 (noise) + 1/2 (rounding) in a coefficient of a fresh ciphertext."""

_DOUBLES = 2.0**-39
"""Relative error of a transform in doubles: above log2(N) sqrt(N) 7 u for N = 16384, u = 2^-53."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterSet:
    """A choice of parameters: N, the bits of each prime (the last is the special one), and the scales in bits.

    Raises ValueError for parameters of less than 128-bit security.
    """

    degree: int
    primes: tuple[int, ...]
    input_bits: int
    weight_bits: int

    def __post_init__(self) -> None:
        most = _SECURE_BITS.get(self.degree, 0)
        if sum(self.primes) > most:
            raise ValueError(f"{self}: expected at most {most} bits for 128-bit security, got {sum(self.primes)}")
        if len(self.primes) < 2 or not all(17 <= bits <= 60 for bits in self.primes):
            raise ValueError(f"{self}: expected at least two primes of 17 to 60 bits")

    def __str__(self) -> str:
        return f"{self.degree} {list(self.primes)}"

    @property
    def slots(self) -> int:
        """Rows in a ciphertext."""
        return self.degree // 2

    @property
    def data_bits(self) -> int:
        """Bits of the modulus that ciphertexts have; SEAL takes the largest primes, so it is just below 2^data_bits."""
        return sum(self.primes[:-1])

    def output_bits(self, squares: int) -> int:
        """The scale of an output after `squares` squares, in bits."""
        bits = self.input_bits + self.weight_bits
        for _ in range(squares):
            bits = 2 * bits + self.weight_bits
        return bits


LINEAR = ParameterSet(degree=4096, primes=(45, 44, 17), input_bits=40, weight_bits=28)
ONE_HIDDEN_LAYER = ParameterSet(degree=8192, primes=(47, 47, 47, 47, 26), input_bits=40, weight_bits=28)
CANDIDATES = (LINEAR, ONE_HIDDEN_LAYER)
"""What the planner tries, the cheapest first. The special prime is small: keys for relinearisation are all it is for,
and at these scales their noise is nothing beside the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """`weight` of shape (out, in), `bias` of shape (out,)."""

    weight: F64
    bias: F64

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or self.bias.shape != self.weight.shape[:1] or not self.weight.size:
            raise ValueError(f"expected shapes (out, in) and (out,), got {self.weight.shape} and {self.bias.shape}")
        if not (np.isfinite(self.weight).all() and np.isfinite(self.bias).all()):
            raise ValueError("expected finite weights")


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Linear layers with a square between them."""

    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        pairs = zip(self.layers, self.layers[1:], strict=False)
        if not self.layers or any(one.weight.shape[0] != other.weight.shape[1] for one, other in pairs):
            raise ValueError("expected layers that fit one another")

    @property
    def inputs(self) -> int:
        return int(self.layers[0].weight.shape[1])

    @property
    def outputs(self) -> int:
        return int(self.layers[-1].weight.shape[0])

    @property
    def squares(self) -> int:
        """How many times ciphertexts are multiplied with one another, one after the other."""
        return len(self.layers) - 1

    def __call__(self, x: F64) -> F64:
        """Outputs (n, outputs) of inputs (n, inputs), in the clear."""
        for place, layer in enumerate(self.layers):
            x = (x if place == 0 else np.square(x)) @ layer.weight.T + layer.bias
        return x


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """The smallest and the largest value of each input, shape (inputs,)."""

    low: F64
    high: F64

    def __post_init__(self) -> None:
        if self.low.shape != self.high.shape or not (self.low <= self.high).all():
            raise ValueError("expected as many smallest as largest values, none above its largest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Assurance:
    """What holds for every row of the box: `error` is the most that an output is off from that in exact arithmetic.

    `output` is the most that an output of the network is, in absolute value.
    """

    parameters: ParameterSet
    error: float
    output: float


def choose_parameters(
    network: Network,
    box: Box,
    candidates: Sequence[ParameterSet] = CANDIDATES,
    max_error: float = MAX_ERROR,
) -> Assurance:
    """The first of `candidates` by which no row of `box` gets an answer that is off by more than `max_error`.

    Raises LocalError, with what is wrong with each, where there is none.
    """
    reasons = []
    for parameters in candidates:
        try:
            found = assure(network, box, parameters)
        except LocalError as error:
            reasons.append(str(error))
            continue
        if found.error <= max_error:
            return found
        reasons.append(f"{parameters}: expected an error of at most {max_error:g}, got {found.error:.2g}")
    raise LocalError(f"no parameters of CKKS fit the model ({'; '.join(reasons)})")


def assure(network: Network, box: Box, parameters: ParameterSet) -> Assurance:
    """What `parameters` assure of `network` on `box`. Raises LocalError where a result does not fit the modulus.

    Unused slots hold zeros, so zero counts as an input too.
    """
    if box.low.shape != (network.inputs,):
        raise ValueError(f"expected a box of {network.inputs} inputs, got {box.low.shape}")
    low, high = np.minimum(box.low, 0), np.maximum(box.high, 0)
    largest = np.maximum(-low, high)
    error = _NOISE * parameters.degree * 2.0**-parameters.input_bits + largest * _DOUBLES
    bits = parameters.input_bits
    _check_room(float((largest + error).max()), bits, parameters)  # where weights are zero, no output shows it
    for place, layer in enumerate(network.layers):
        if place:
            low, high = _squared(low, high)
            error = (2 * largest + error) * error + _relinearisation(parameters, bits)
            bits *= 2
            largest = high
        bits += parameters.weight_bits
        rounded = rounded_weights(layer.weight, parameters)
        off = np.abs(rounded - layer.weight)
        error = np.abs(rounded) @ error + off @ largest + np.abs(layer.bias) * _DOUBLES + 2.0**-bits
        low, high = _linear(layer, low, high)
        largest = np.maximum(np.abs(low), np.abs(high))
        error += largest * _DOUBLES
        _check_room(float(np.maximum(largest + error, np.abs(layer.bias)).max()), bits, parameters)
    return Assurance(
        parameters=parameters,
        error=float((error + (largest + error) * _DOUBLES).max()),
        output=float(largest.max()),
    )


def rounded_weights(weight: F64, parameters: ParameterSet) -> F64:
    """The weights as they are encoded: multiples of 2^-weight_bits.

    No output is without any: SEAL multiplies nothing by zero, and a constant has no ciphertext to stand in. The
    smallest weight that can be encoded takes its place.
    """
    unit = 2.0**-parameters.weight_bits
    rounded: F64 = np.rint(weight / unit) * unit
    rounded[~rounded.any(axis=1), 0] = unit
    return rounded


def _linear(layer: Layer, low: F64, high: F64) -> tuple[F64, F64]:
    """The range of each output, for inputs between `low` and `high`."""
    up, down = np.maximum(layer.weight, 0), np.minimum(layer.weight, 0)
    return up @ low + down @ high + layer.bias, up @ high + down @ low + layer.bias


def _squared(low: F64, high: F64) -> tuple[F64, F64]:
    largest = np.maximum(np.abs(low), np.abs(high))
    smallest = np.where((low <= 0) & (high >= 0), 0, np.minimum(np.abs(low), np.abs(high)))
    return np.square(smallest), np.square(largest)


def _relinearisation(parameters: ParameterSet, bits: int) -> float:
    """What relinearisation adds to a slot of a square of inputs at a scale of `bits`: keys' noise, and one rounding."""
    degree, special = float(parameters.degree), 2.0 ** (parameters.primes[-1] - 1)
    digits = sum(degree * 2.0**prime for prime in parameters.primes[:-1])
    noise = digits * (_NOISE * degree) / special + degree / 2 * (1 + degree)
    return float(noise * 2.0 ** (-2 * bits))


def _check_room(largest: float, bits: int, parameters: ParameterSet) -> None:
    """Results are within (-Q/2, Q/2); a bit more is left, for the primes are a little smaller than powers of two."""
    needed = math.ceil(math.log2(max(largest, 1.0)) + bits + 2)
    if needed > parameters.data_bits:
        raise LocalError(
            f"{parameters}: expected a modulus of at least {needed} bits, for results up to {largest:.3g}, got "
            f"{parameters.data_bits}"
        )
