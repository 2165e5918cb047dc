"""Homomorphic sums on this machine: ``python benchmarks/he.py``.

One update of 1.17 million parameters from each of 8 clients, by our BFV (seeded, 16 bits a value) and by what TenSEAL's
users do with CKKS (``peers/tenseal_variants.py``), in one interleaved run. Figures are CPU seconds of one client that
encrypts, of the server that adds all clients' updates up, and of one member that opens the sum: ours from a float32
update to a float32 mean, with clipping, quantisation and tags; the peers' from tensors to tensors. Beside them, without
a gate: BFV in the public form, masking, and a plain sum. Then the memory of a server that adds 2 and 16 clients, and
the wall time of a large update with and without worker processes. Exit code 1 when a gate is missed.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from environments import HERE
from peers.tenseal_variants import VARIANTS, Update, Variant, measured, update_of
from simulation import Findings, Gate, machine, print_table, progress, spread, write

from wardround.strategies.he.encryption import ChunkCipher
from wardround.strategies.he.he_plan import Form, HEPlan
from wardround.strategies.he.key_ceremony import EpochKey
from wardround.strategies.he.packing import Packing
from wardround.strategies.he.scheme import KeyHolder, KeylessSum, PublicContext, new_key
from wardround.strategies.privacy.secure_random import SecureRandom
from wardround.strategies.secagg.encoding import Encoding
from wardround.strategies.secagg.keystream import add_masks

CLIENTS, BITS, CLIP = 8, 16, 100.0
H = bytes(32)
NO_SCALARS = np.zeros(0, dtype=np.uint64)


def encoding_for(size: int, clients: int, bits: int) -> Encoding:
    scale = ((1 << (bits - 1)) - 1) / CLIP
    return Encoding(size=size, scale=scale, value_bits=bits, members=clients, word_bits=32, clip_norm=CLIP)


class Bfv:
    """Ours, by the classes that members and servers use; messages, signatures and the network left out."""

    def __init__(self, size: int, form: Form = Form.SEEDED, clients: int = CLIENTS, bits: int = BITS) -> None:
        self.name = f"ours, bfv-{form.name.lower()}, {bits} bits"
        self.plan = HEPlan(members=clients)
        self.encoding = encoding_for(size, clients, bits)
        self.packing = Packing(plan=self.plan, bits=bits, size=size, scalars=0)
        key = EpochKey(epoch=1, form=form, key=new_key(self.plan, form), tag_key=os.urandom(32))
        self.cipher = ChunkCipher(self.plan, key)
        self.public = KeyHolder(self.plan, form, key.key).public
        self.context = PublicContext(self.plan, self.public)
        self.random, self.clients = SecureRandom(), clients
        self.words: list[np.ndarray] = []

    def upload(self, member: int, update: np.ndarray) -> list[bytes]:
        words = self.encoding.encode(update, self.random).words.view(np.uint32)
        self.words.append(words)
        return self.cipher.encrypt(H, member, self.packing.pack(words, NO_SCALARS))

    def add(self, uploads: Sequence[list[bytes]]) -> list[bytes]:
        total = KeylessSum(self.context, self.packing.chunks)
        for upload in uploads:
            total.add(upload)
        return list(total.serialized())

    def open(self, total: Sequence[bytes], clients: int) -> tuple[np.ndarray, np.ndarray]:
        words, _ = self.packing.unpack(self.cipher.decrypt(H, range(clients), total), clients)
        return words, self.encoding.decode(words, clients)


def ours(scheme: Bfv, update: Update) -> dict[str, Any]:
    """The figures of one round; its sum is compared with the sum of the clients' integers."""
    flat = np.concatenate([tensor.ravel() for tensor in update])
    uploads, encrypt_s = [], []
    scheme.words = []
    for member in range(scheme.clients):
        started = time.process_time()
        uploads.append(scheme.upload(member, flat))
        encrypt_s.append(time.process_time() - started)
    clock = [time.process_time()]
    total = scheme.add(uploads)
    clock.append(time.process_time())
    words, mean = scheme.open(total, scheme.clients)
    clock.append(time.process_time())
    exact = sum(one.view(np.int32).astype(np.int64) for one in scheme.words)
    if not np.array_equal(words.view(np.int32), exact):
        raise SystemExit(f"{scheme.name}: the sum is not exact")
    add_s, open_s = (after - before for before, after in itertools.pairwise(clock))
    sent = sum(map(len, uploads[0]))
    return {
        "party": scheme.name,
        "clients": scheme.clients,
        "encrypt_s": statistics.mean(encrypt_s),
        "add_s": add_s,
        "decrypt_s": open_s,
        "seconds": statistics.mean(encrypt_s) + add_s + open_s,
        "bytes": sent,
        "bytes_over_fp32": sent / flat.nbytes,
        "largest_error": float(np.max(np.abs(mean - flat))) * scheme.clients,
    }


def masked(update: Update) -> dict[str, Any]:
    """Masking at the same size: a client encodes and adds a mask for each other client and one of its own; the server
    adds up and takes the clients' own masks away."""
    flat = np.concatenate([tensor.ravel() for tensor in update])
    encoding, random = encoding_for(flat.size, CLIENTS, 24), SecureRandom()
    seeds = [(os.urandom(32), 1) for _ in range(CLIENTS)]
    clock = [time.process_time()]
    words = encoding.encode(flat, random).words.view(np.uint32)
    add_masks(words, seeds)
    clock.append(time.process_time())
    total = np.zeros_like(words)
    for _ in range(CLIENTS):
        total += words
    add_masks(total, [(seed, -sign) for seed, sign in seeds])
    mean = encoding.decode(total, CLIENTS)
    clock.append(time.process_time())
    client_s, server_s = (after - before for before, after in itertools.pairwise(clock))
    return _unencrypted("ours, masking", client_s, server_s, words.nbytes, flat, float(mean[0] * 0))


def plain(update: Update) -> dict[str, Any]:
    """A sum of float32 in the clear."""
    flat = np.concatenate([tensor.ravel() for tensor in update])
    clock = [time.process_time()]
    sent = flat.tobytes()
    clock.append(time.process_time())
    total = np.zeros(flat.size, dtype=np.float64)
    for _ in range(CLIENTS):
        total += np.frombuffer(sent, dtype=np.float32)
    clock.append(time.process_time())
    client_s, server_s = (after - before for before, after in itertools.pairwise(clock))
    return _unencrypted("a plain sum", client_s, server_s, len(sent), flat, 0.0)


def _unencrypted(
    name: str, client_s: float, server_s: float, sent: int, flat: np.ndarray, error: float
) -> dict[str, Any]:
    return {
        "party": name,
        "clients": CLIENTS,
        "encrypt_s": client_s,
        "add_s": server_s,
        "decrypt_s": 0.0,
        "seconds": client_s + server_s,
        "bytes": sent,
        "bytes_over_fp32": sent / flat.nbytes,
        "largest_error": error,
    }


def server_peak(clients: int, uploads: Path) -> int:
    """Bytes by which the peak of a process grows that adds `clients` uploads, read from files one after another."""
    command = [sys.executable, __file__, "--add", str(uploads), str(clients)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def add_from_files(folder: Path, clients: int) -> int:
    plan = HEPlan(members=16)
    public = PublicContext(plan, (folder / "context").read_bytes())
    sizes = [int(size) for size in (folder / "sizes").read_text().split()]
    before = _peak_bytes()
    total = KeylessSum(public, len(sizes))
    for _ in range(clients):
        with (folder / "upload").open("rb") as upload:
            total.add(upload.read(size) for size in sizes)
    return _peak_bytes() - before


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def memory(folder: Path, size: int) -> tuple[int, int, int]:
    """The growth of a server's peak for 2 and for 16 clients, and the size of the running sum."""
    scheme = Bfv(size, clients=16)
    upload = scheme.upload(0, np.zeros(size, dtype=np.float32))
    (folder / "context").write_bytes(scheme.public)
    (folder / "sizes").write_text(" ".join(str(len(chunk)) for chunk in upload))
    (folder / "upload").write_bytes(b"".join(upload))
    held = scheme.packing.chunks * 2 * 4096 * 8
    return server_peak(2, folder), server_peak(16, folder), held


def with_workers(size: int) -> tuple[float, float]:
    """Wall seconds to encrypt a large update in one process, and with worker processes."""
    from wardround.strategies.he import encryption

    scheme = Bfv(size, clients=3)
    slots = scheme.packing.pack(np.zeros(size, dtype=np.uint32), NO_SCALARS)
    found = []
    for least in (1 << 30, 1):
        encryption._WORTH_A_PROCESS = least
        started = time.perf_counter()
        scheme.cipher.encrypt(H, 0, slots)
        found.append(time.perf_counter() - started)
    return found[0], found[1]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0], allow_abbrev=False)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--large", type=int, default=100_000_000, help="parameters of the large update")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "he.json", help="JSON")
    parser.add_argument("--add", nargs=2, metavar=("FOLDER", "CLIENTS"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main() -> int:
    args = parse()
    if args.add:
        print(add_from_files(Path(args.add[0]), int(args.add[1])))
        return 0
    findings, begin = Findings(), machine()
    if begin["load_average"] > 0.5:
        progress(f"load average {begin['load_average']:.1f}: other work is running, and figures will show it")
    update = update_of(1)
    size = sum(tensor.size for tensor in update)
    schemes = [Bfv(size), Bfv(size, Form.PUBLIC)]
    peers: list[Variant] = [kind() for kind in VARIANTS.values()]
    runs: dict[str, list[dict[str, Any]]] = {}
    for repetition in range(args.repetitions):
        progress(f"repetition {repetition + 1} of {args.repetitions}")
        for found in (
            *(ours(scheme, update) for scheme in schemes),
            *(measured(peer, update, CLIENTS) for peer in peers),
            masked(update),
            plain(update),
        ):
            runs.setdefault(str(found["party"]), []).append(found)
            findings.runs.append(found | {"repetition": repetition})
    rows = [("way", "encrypt s", "add s", "open s", "bytes a client", "x fp32", "largest error")]
    for name, found in runs.items():
        seconds = (spread([run[key] for run in found], 3) for key in ("encrypt_s", "add_s", "decrypt_s"))
        last = found[-1]
        shares = f"{last['bytes']:,}", f"{last['bytes_over_fp32']:.3f}", f"{last['largest_error']:.1e}"
        rows.append((name, *seconds, *shares))
    print_table(rows)
    best = runs[schemes[0].name]
    findings.gates.append(Gate(name="upload / fp32", measured=best[-1]["bytes_over_fp32"], bound=1.0, at_least=False))
    for peer, least_bytes, least_speed in zip(peers[:2], (20, 15), (8, 5), strict=True):
        ratios = [theirs["seconds"] / ours_["seconds"] for theirs, ours_ in zip(runs[peer.name], best, strict=True)]
        fewer = runs[peer.name][-1]["bytes"] / best[-1]["bytes"]
        findings.gates.append(
            Gate(name=f"times fewer bytes than {peer.name}", measured=fewer, bound=least_bytes, at_least=True)
        )
        findings.gates.append(
            Gate(
                name=f"times as fast as {peer.name}",
                measured=statistics.median(ratios),
                bound=least_speed,
                at_least=True,
            )
        )
    large(args, findings)
    write(findings, begin, args.output)
    for gate in findings.gates:
        print(gate)
    return 0 if all(gate.passed for gate in findings.gates) else 1


def large(args: argparse.Namespace, findings: Findings) -> None:
    """Memory of the server, and worker processes."""
    import tempfile

    with tempfile.TemporaryDirectory(dir=HERE) as place:
        two, sixteen, held = memory(Path(place), 10_000_000)
    progress(f"a server's peak grows by {two / 1e6:.0f} MB for 2 clients and {sixteen / 1e6:.0f} MB for 16 of 1e7")
    progress(f"the running sum itself takes {held / 1e6:.0f} MB")
    name = "server's peak with 16 clients / with 2"
    findings.gates.append(Gate(name=name, measured=sixteen / two, bound=1.1, at_least=False))
    alone, together = with_workers(args.large)
    progress(f"{args.large:,} parameters: {alone:.1f} s in one process, {together:.1f} s with workers")
    findings.runs.append({"party": "workers", "alone_s": alone, "together_s": together, "parameters": args.large})


if __name__ == "__main__":
    sys.exit(main())
