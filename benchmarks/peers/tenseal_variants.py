"""Sums of one update under TenSEAL's CKKS, as tutorials and frameworks do it: the peers of ``benchmarks/he.py``.

Alone: ``python benchmarks/peers/tenseal_variants.py [--clients N]``. It runs in the environment of the tests, where
tenseal is installed. In TenSEAL's favour: vectors are added in place, one context serves all of a client's tensors, and
its key pair is made beforehand. One client's upload stands for all clients', since the server's work is the same.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import tenseal

WIDTHS = (784, 800, 512, 200, 100, 64, 32, 16, 10)
"""Of a perceptron's layers: 16 tensors, 1,170,054 parameters."""

Update = list[np.ndarray]
Parts = list[bytes]


def update_of(seed: int) -> Update:
    """Sixteen float32 tensors: a weight and a bias for each layer."""
    random = np.random.default_rng(seed)
    shapes = [shape for pair in itertools.pairwise(WIDTHS) for shape in (pair, pair[1:])]
    return [(0.01 * random.standard_normal(shape)).astype(np.float32) for shape in shapes]


@contextmanager
def _quiet() -> Iterator[None]:
    """TenSEAL's C++ warns on standard output of every vector that is longer than a ciphertext."""
    sys.stdout.flush()
    kept, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nothing)


class Variant(Protocol):
    """One way to add updates under encryption. The keys are made with it."""

    name: str

    def encrypt(self, update: Update) -> Parts:
        """At a client: all that it sends, in messages."""

    def add(self, uploads: Sequence[Parts]) -> Parts:
        """At a server without a secret key: the sum, as members get it."""

    def decrypt(self, parts: Parts) -> Update:
        """At a member: the sum's tensors, flat."""


@dataclass(slots=True)
class _Ckks:
    """Members' context, and the server's without the secret key."""

    degree: int
    coeff_bits: list[int]
    symmetric: bool = False
    members: Any = field(init=False, repr=False)
    server: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        kind = tenseal.ENCRYPTION_TYPE.SYMMETRIC if self.symmetric else tenseal.ENCRYPTION_TYPE.ASYMMETRIC
        self.members = tenseal.context(
            tenseal.SCHEME_TYPE.CKKS, self.degree, coeff_mod_bit_sizes=self.coeff_bits, encryption_type=kind
        )
        self.members.global_scale = 2.0**40
        self.server = tenseal.context_from(self.members.serialize(save_secret_key=False))

    def encrypt(self, values: np.ndarray) -> bytes:
        with _quiet():
            return tenseal.ckks_vector(self.members, values.ravel().tolist()).serialize()

    def add(self, sent: Sequence[bytes], context: Any = None) -> bytes:
        context = context or self.server
        with _quiet():
            total = tenseal.ckks_vector_from(context, sent[0])
            for one in sent[1:]:
                total.add_(tenseal.ckks_vector_from(context, one))
            return total.serialize()

    def decrypt(self, part: bytes) -> np.ndarray:
        with _quiet():
            return np.array(tenseal.ckks_vector_from(self.members, part).decrypt(), dtype=np.float32)


class Tutorial:
    """8192 [60, 40, 40, 60], public-key encryption, one vector for each tensor."""

    name = "tutorial CKKS 8192 [60,40,40,60], a vector per tensor"

    def __init__(self) -> None:
        self.ckks = _Ckks(8192, [60, 40, 40, 60])

    def encrypt(self, update: Update) -> Parts:
        return [self.ckks.encrypt(tensor) for tensor in update]

    def add(self, uploads: Sequence[Parts]) -> Parts:
        return [self.ckks.add(sent) for sent in zip(*uploads, strict=True)]

    def decrypt(self, parts: Parts) -> Update:
        return [self.ckks.decrypt(part) for part in parts]


class ContextWithEveryTensor:
    """8192 [60, 40, 40], symmetric encryption, one vector for each tensor, each with the public context before it."""

    name = "CKKS 8192 [60,40,40] symmetric, context with every tensor"

    def __init__(self) -> None:
        self.ckks = _Ckks(8192, [60, 40, 40], symmetric=True)

    def encrypt(self, update: Update) -> Parts:
        parts = []
        for tensor in update:
            parts += [self.ckks.members.serialize(save_secret_key=False), self.ckks.encrypt(tensor)]
        return parts

    def add(self, uploads: Sequence[Parts]) -> Parts:
        sums = []
        for contexts, sent in zip(
            zip(*(one[::2] for one in uploads), strict=True),
            zip(*(one[1::2] for one in uploads), strict=True),
            strict=True,
        ):
            # a receiver reads the context that came with a tensor; the sum is made under the first of them
            context, *_ = [tenseal.context_from(one) for one in contexts]
            sums.append(self.ckks.add(sent, context))
        return sums

    def decrypt(self, parts: Parts) -> Update:
        return [self.ckks.decrypt(part) for part in parts]


class FlatBuffer:
    """4096 [54, 55], public-key encryption, all tensors as one vector."""

    name = "CKKS 4096 [54,55], one flat buffer"

    def __init__(self) -> None:
        self.ckks = _Ckks(4096, [54, 55])
        self.sizes: list[int] = []

    def encrypt(self, update: Update) -> Parts:
        self.sizes = [tensor.size for tensor in update]
        return [self.ckks.encrypt(np.concatenate([tensor.ravel() for tensor in update]))]

    def add(self, uploads: Sequence[Parts]) -> Parts:
        return [self.ckks.add([part for (part,) in uploads])]

    def decrypt(self, parts: Parts) -> Update:
        (part,) = parts
        return np.split(self.ckks.decrypt(part), np.cumsum(self.sizes)[:-1])


VARIANTS: dict[str, type[Variant]] = {
    "tutorial": Tutorial,
    "context": ContextWithEveryTensor,
    "flat": FlatBuffer,
}


def measured(variant: Variant, update: Update, clients: int) -> dict[str, object]:
    """CPU seconds of a client, of the server and of a member, bytes of a client, and the sum's largest error."""
    clock = [time.process_time()]
    upload = variant.encrypt(update)
    clock.append(time.process_time())
    total = variant.add([upload] * clients)
    clock.append(time.process_time())
    found = variant.decrypt(total)
    clock.append(time.process_time())
    encrypt_s, add_s, decrypt_s = (after - before for before, after in itertools.pairwise(clock))
    error = max(float(np.max(np.abs(sum_ - clients * one.ravel()))) for sum_, one in zip(found, update, strict=True))
    return {
        "party": variant.name,
        "clients": clients,
        "encrypt_s": encrypt_s,
        "add_s": add_s,
        "decrypt_s": decrypt_s,
        "seconds": encrypt_s + add_s + decrypt_s,
        "bytes": sum(len(part) for part in upload),
        "bytes_over_fp32": sum(len(part) for part in upload) / sum(tensor.nbytes for tensor in update),
        "largest_error": error,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", nargs="+", choices=sorted(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--clients", type=int, default=3)
    args = parser.parse_args()
    update = update_of(1)
    for name in args.variants:
        print(json.dumps(measured(VARIANTS[name](), update, args.clients)), flush=True)


if __name__ == "__main__":
    main()
