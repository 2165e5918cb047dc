"""Secure aggregation beside flwr's SecAgg+, and its cost model: ``python benchmarks/secagg.py [--sections ...]``.

Ours is what members and servers run: `Encoding.encode`, `mask_update`, `ServerRound` with all its checks. flwr's are
its own functions in the order of its mod and workflow (`peers/flwr_secagg.py`). Both take turns in one process, ratios
are taken within a repetition, and figures are CPU seconds, of all threads.

Sections: ``stages`` (beside flwr, and the gates), ``costs`` (a client and the server for groups, sizes and drop-outs,
beside the cost model), ``clients`` (very many simulated clients in one process, real cryptography: CPU and peak memory;
and what the roster of as many costs one member that checks it). Exit code 1 when a gate is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from environments import HERE
from secagg_committee import CLIP_NORM, LANE, MODEL, NOW, Federated, SparingStore, federated, run_round, update_of
from secagg_primitives import bare_gcm, masks, measure
from simulation import Findings, Gate, machine, paired_ratios, print_table, progress, spread, values, write

from wardround.state_store import MemoryStore
from wardround.strategies.privacy.secure_random import SecureRandom
from wardround.strategies.secagg.client_round import ClientRound
from wardround.strategies.secagg.encoding import Encoding, encode_lane
from wardround.strategies.secagg.keystream import U32
from wardround.strategies.secagg.masked_update import mask_update, remove_masks
from wardround.strategies.secagg.messages import Masked, SurvivorSignature, UnmaskAnswer, encode
from wardround.strategies.secagg.parameters import lost
from wardround.strategies.secagg.phases import ServerRoundPhase
from wardround.strategies.secagg.server_round import ServerRound
from wardround.strategies.secagg.shamir import split

SECTIONS = ("stages", "costs", "clients")
OURS, THEIRS = "wardround", "flwr"
SIZES = (1_000_000, 10_000_000)
GROUP, THRESHOLD = 10, 7
SHARINGS = (51, 101, 200)
RATE_GATE = 0.6  # of AES-256-GCM in blocks of 64 KiB
QUANTISE_GATE, SHAMIR_GATE, SERVER_GATE = 15.0, 250.0, 12.0
CLIENT_GATES = {1_000_000: 10.0, 10_000_000: 20.0}
GROUPS, COST_SIZES, DROPOUTS = (10, 50, 100), (100_000, 1_000_000, 10_000_000), (0.0, 0.1, 0.3)
ENCODE_NS, ADD_NS, MASK_NS = 1.4, 0.15, 0.38  # the model's, for each parameter
LARGE = 4 * 10**10  # group · group · parameters, above which a round is run once
MEMORY_GATE_GIB = 4.0


# -- beside flwr ---------------------------------------------------------------------------------


def stages(findings: Findings, args: argparse.Namespace) -> None:
    """What a client and the server compute, each beside flwr's."""
    sys.path.insert(0, str(HERE / "peers"))
    import flwr_secagg as flwr  # type: ignore[import-not-found]

    rows: list[tuple[str, ...]] = [("stage", "flwr, ms", "ours, ms", "flwr over ours", "gate")]

    def compare(
        name: str, theirs: Callable[[], object], ours: Callable[[], object], bound: float | None = None
    ) -> None:
        runs = measure(name, {THEIRS: theirs, OURS: ours}, args, findings)
        ratios = paired_ratios(runs[THEIRS], runs[OURS], "seconds")
        figures = [spread([1e3 * s for s in values(runs[party], "seconds")], 2) for party in (THEIRS, OURS)]
        rows.append((name, *figures, spread(ratios, 1), "" if bound is None else f"{bound:g}"))
        if bound is not None:
            gate = Gate(name=f"{name}: flwr over ours", measured=statistics.median(ratios), bound=bound, at_least=True)
            findings.gates.append(gate)
        progress(name)

    members = [flwr.FlwrMember(node) for node in range(GROUP)]
    for member in members:
        member.share(THRESHOLD, GROUP)
    for size in args.sizes:
        gcm = measure(f"{GROUP} masks of {size}", {"GCM": bare_gcm(size), OURS: masks(size, 1)}, args, findings)
        rate = statistics.median(paired_ratios(gcm["GCM"], gcm[OURS], "seconds"))
        name = f"mask and add, {size}: of the rate of AES-256-GCM"
        findings.gates.append(Gate(name=name, measured=rate, bound=RATE_GATE, at_least=True))
        words, total = flwr.zeros(size), np.zeros(size, dtype=np.uint32)
        seed = os.urandom(32)
        compare(
            f"mask and add, {size}",
            lambda words=words, seed=seed: flwr.one_mask(words, seed),  # type: ignore[misc]
            lambda total=total, seed=seed: remove_masks(total, np.zeros(0, dtype=np.uint64), [(seed, 1)]),  # type: ignore[misc]
        )
        of, update, random = federated(GROUP, 1, size, colluding=1, dropout=0.3), update_of(0, size), SecureRandom()
        unclipped = Encoding(size=size, scale=of.encoding.scale, value_bits=of.encoding.value_bits, members=GROUP)
        compare(
            f"quantise, {size}",
            lambda update=update: flwr.quantised(update),  # type: ignore[misc]
            lambda e=unclipped, update=update, random=random: e.encode(update, random),  # type: ignore[misc]
            QUANTISE_GATE,
        )
        compare(
            f"the same; ours clips to an L2 norm too, {size}",
            lambda update=update: flwr.quantised(update),  # type: ignore[misc]
            lambda e=of.encoding, update=update, random=random: e.encode(2 * update, random),  # type: ignore[misc]
        )
        compare(
            f"client stage, {GROUP} masks, {size}",
            lambda update=update: flwr.masked(members[0], members[1:], update),  # type: ignore[misc]
            client_stage(of, update, random),
            CLIENT_GATES.get(size),
        )
        vectors = [
            flwr.masked(member, [other for other in members if other is not member], update) for member in members
        ]
        whole, bare = server_stage(of)

        def theirs(vectors: list[object] = vectors) -> object:
            return flwr.unmasked(flwr.summed(vectors), members, THRESHOLD)

        gated = size == SIZES[-1]
        compare(f"server: {GROUP} updates to their mean, {size}", theirs, whole, SERVER_GATE if gated else None)
        compare(f"the same; of ours only sums, masks and the mean, {size}", theirs, bare)
        del vectors, whole, bare, theirs
    for holders in SHARINGS:
        secrets, threshold = (os.urandom(32), os.urandom(32)), 2 * holders // 3 + 1
        compare(
            f"Shamir, 2 secrets of 32 bytes, {threshold} of {holders}",
            lambda s=secrets, t=threshold, n=holders: flwr.two_shared(s, t, n),  # type: ignore[misc]
            lambda s=secrets, t=threshold, n=holders: split(b"".join(s), t, n, os.urandom),  # type: ignore[misc]
            SHAMIR_GATE,
        )
    print_table(rows)
    uploads(findings)


def client_stage(of: Federated, update: np.ndarray, random: SecureRandom) -> Callable[[], Masked]:
    """From an update to M1: clipped, rounded, masked; its seeds shared and sealed; all committed to and signed."""
    (agreement, *_), lane = of.agreements(0).values(), encode_lane([1] * LANE, GROUP)

    def call() -> Masked:
        words = of.encoding.encode(update, random).words
        assert words.dtype == np.uint32
        descriptor, key = of.descriptor(), of.keys[0]
        return mask_update(of.cohort, 0, agreement.secrets, descriptor, words, lane, key, os.urandom).masked

    return call


def server_stage(of: Federated) -> tuple[Callable[[], object], Callable[[], object]]:
    """A server's round on what members once sent, to the mean; and the arithmetic alone, without any check."""
    random, lane, store = SecureRandom(), encode_lane([1] * LANE, GROUP), SparingStore()
    members = {
        of.cohort.names[member]: ClientRound(of.membership(member, SparingStore()), agreement)
        for member, agreement in of.agreements(0).items()
    }
    server, sent = ServerRound.begin(of.setting(0, store), of.descriptor()), []
    outgoing = server.outgoing()
    for one in outgoing:
        members[str(one.receiver)].receive(one.message, NOW)
    for member, (name, machine_) in enumerate(members.items()):
        words = of.encoding.encode(update_of(member, of.encoding.size), random).words
        (masked,) = machine_.mask(words, lane, model=MODEL)  # type: ignore[arg-type]
        server.receive(name, masked.message, NOW)
        sent.append((name, masked.message))
    outgoing = server.close()
    while server.phase is not ServerRoundPhase.DONE:
        answered = []
        for one in outgoing:
            name = str(one.receiver)
            for reply in members[name].receive(one.message, NOW):
                sent.append((name, reply.message))
                answered += server.receive(name, reply.message, NOW)
        outgoing = answered
    masked_updates = [message for _, message in sent if isinstance(message, Masked)]
    later = [(name, message) for name, message in sent if isinstance(message, SurvivorSignature | UnmaskAnswer)]

    def whole() -> object:
        machine_ = ServerRound.begin(of.setting(0, SparingStore()), of.descriptor())
        for (name, _), masked in zip(sent, masked_updates, strict=False):
            machine_.receive(name, masked, NOW)
        machine_.close()
        for name, message in later:
            if machine_.phase is not ServerRoundPhase.DONE:
                machine_.receive(name, message, NOW)
        (result,) = machine_.results
        return of.encoding.decode(result.vector, GROUP)

    def bare() -> object:
        total: U32 = np.zeros(of.encoding.length, dtype=np.uint32)
        for masked in masked_updates:
            total += np.frombuffer(masked.vector, dtype="<u4")
        remove_masks(total, np.zeros(LANE, dtype=np.uint64), [(os.urandom(32), 1) for _ in range(GROUP)])
        return of.encoding.decode(total, GROUP)

    return whole, bare


def uploads(findings: Findings) -> None:
    """Bytes of M1 beside their bound: 4 a parameter, and what a group of g and a committee of L take."""
    rows = [("upload", "bytes", "bound")]
    for group in GROUPS:
        size = 100_000
        of = federated(group, 1, size, colluding=1, dropout=0.3)
        (agreement, *_), lane = of.agreements(0).values(), encode_lane([1] * LANE, group)
        words = of.encoding.encode(update_of(0, size), SecureRandom()).words
        assert words.dtype == np.uint32
        made = mask_update(of.cohort, 0, agreement.secrets, of.descriptor(), words, lane, of.keys[0], os.urandom)
        sent, bound = len(encode(made.masked)), 4 * size + 32 * group * group + 80 * group + 32 * group + 1024
        rows.append((f"{group} members, {size} parameters", str(sent), str(bound)))
        name = f"upload, {group} members: bytes over the bound"
        findings.gates.append(Gate(name=name, measured=sent / bound, bound=1.0, at_least=False))
    print_table(rows)


# -- the cost model ------------------------------------------------------------------------------


def costs(findings: Findings, args: argparse.Namespace) -> None:
    """CPU seconds of one client and of the server in a round, and how often the model they take."""
    rows = [("group", "parameters", "lost", "client, ms", "over model", "server, s", "over model")]
    for group in args.groups:
        for size in args.cost_sizes:
            drops = [lost(group, share) for share in DROPOUTS]
            of = federated(group, 1, size, colluding=1, dropout=max(DROPOUTS))
            repeats = 1 if group * group * size >= LARGE else 3
            found: dict[int, list[tuple[float, float]]] = {drop: [] for drop in drops}
            for _ in range(repeats):
                for drop, (clock, _) in zip(drops, run_round(of, 0, drops), strict=True):
                    found[drop].append((clock.client_s, clock.server_s))
                    stages_s = {"client": clock.client, "server": clock.server}
                    findings.runs.append(
                        {"case": "costs", "group": group, "size": size, "lost": drop, **summed(stages_s)}
                    )
            for drop in drops:
                client, server = (statistics.median(each) for each in zip(*found[drop], strict=True))
                left = group - drop
                client_model = size * (ENCODE_NS + group * MASK_NS) * 1e-9
                server_model = (left * (ADD_NS + MASK_NS) + drop * left * MASK_NS) * size * 1e-9
                rows.append(
                    (
                        str(group),
                        str(size),
                        str(drop),
                        f"{1e3 * client:.1f}",
                        f"{client / client_model:.2f}",
                        f"{server:.3f}",
                        f"{server / server_model:.2f}",
                    )
                )
            progress(f"costs, group of {group}, {size} parameters")
    print_table(rows)


def summed(sides: Mapping[str, Mapping[str, list[float]]]) -> dict[str, float]:
    """By side and stage: a client's mean, the server's sum."""
    return {
        f"{side}_{stage}_s": sum(each) / (len(each) if side == "client" else 1)
        for side, stages_s in sides.items()
        for stage, each in stages_s.items()
    }


# -- very many clients ---------------------------------------------------------------------------


def clients(findings: Findings, args: argparse.Namespace) -> None:
    """Simulated clients with real cryptography in one process, and one member's check of their roster."""
    rows = [("clients", "parameters", "CPU s", "wall s", "CPU ms a client", "peak GiB")]
    found = child("--child-clients", str(args.clients), "--size", str(args.size))
    findings.runs.append({"case": "clients", **found})
    peak = found["peak_rss_bytes"] / 2**30
    rows.append(
        (
            str(args.clients),
            str(args.size),
            f"{found['cpu_s']:.0f}",
            f"{found['wall_s']:.0f}",
            f"{1e3 * found['cpu_s'] / args.clients:.1f}",
            f"{peak:.2f}",
        )
    )
    print_table(rows)
    name = f"{args.clients} clients of {args.size} parameters: peak resident GiB"
    findings.gates.append(Gate(name=name, measured=peak, bound=MEMORY_GATE_GIB, at_least=False))
    roster = child("--child-roster", str(args.clients))
    findings.runs.append({"case": "roster", **roster})
    print_table(
        [
            ("one member's epoch with as many", "CPU s", "MB received"),
            ("roster: certificates, pins, signatures", f"{roster['roster_s']:.2f}", f"{roster['roster_mb']:.1f}"),
            ("signatures and nonces, groups, keys", f"{roster['start_s']:.2f}", f"{roster['start_mb']:.1f}"),
        ]
    )


def child(*arguments: str) -> dict[str, float]:
    """What this script, as a process of its own, prints."""
    done = subprocess.run([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(arguments)} failed ({done.returncode})")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def simulate(number: int, size: int) -> dict[str, float]:
    """One round of so many clients, committee after committee; a twentieth of each are lost after their masks."""
    from measure import tree_peak_rss_bytes

    begin = time.process_time(), time.perf_counter()
    of = federated(number, number // 100, size, colluding=number // 10, dropout=0.1)
    if len(of.cohort.committees) == 1:
        raise SystemExit(f"expected more than 255 clients, got {number}")
    total, added = np.zeros(size, dtype=np.float64), 0
    for done, committee in enumerate(of.cohort.committees):
        drop = len(of.cohort.holders(committee)) // 20
        ((_, (result,)),) = run_round(of, committee, [drop], MemoryStore)
        total += of.encoding.decode(result.vector, 1)
        added += len(result.members)
        if done % 10 == 0:
            progress(f"committee {done + 1} of {len(of.cohort.committees)}")
    expected = np.zeros(size, dtype=np.float64)
    for committee in of.cohort.committees:
        holders = of.cohort.holders(committee)
        for member in holders[: len(holders) - len(holders) // 20]:
            update = update_of(member, size).astype(np.float64)
            expected += update / max(1.0, float(np.linalg.norm(update)) / CLIP_NORM)
    worst = float(np.abs(total - expected).max())
    if worst > 10 * added**0.5 / of.encoding.scale:  # what the rounding of so many adds up to; one update is much more
        raise SystemExit(f"expected the sum of all updates, got one that is off by {worst}")
    return {
        "clients": number,
        "size": size,
        "survivors": added,
        "cpu_s": time.process_time() - begin[0],
        "wall_s": time.perf_counter() - begin[1],
        "peak_rss_bytes": tree_peak_rss_bytes(),
        "worst_error": worst,
    }


def check_roster(number: int) -> dict[str, float]:
    """What it costs one member of so many to check the roster, and then everybody's signature and nonce."""
    from wardround.pins import ApprovedKeys
    from wardround.signing_key import fingerprint_of
    from wardround.strategies.secagg.client_epoch import ClientEpoch
    from wardround.strategies.secagg.messages import Roster, RosterSignature, RosterSignatures, decode
    from wardround.strategies.secagg.signing_inputs import roster_input

    of = federated(number, number // 100, 1, colluding=number // 10, dropout=0.1)
    names = of.cohort.names
    accepted = ApprovedKeys({name: fingerprint_of(key.public) for name, key in zip(names, of.keys, strict=True)})
    epochs = [ClientEpoch.begin(of.membership(member, MemoryStore(), accepted), 0, NOW) for member in range(number)]
    roster = Roster(hellos=tuple(epoch.outgoing()[0].message for epoch in epochs))  # type: ignore[misc]
    frame, one = encode(roster), epochs[0]
    begin = time.process_time()
    (signed,) = one.receive(decode(frame), NOW)
    roster_s = time.process_time() - begin
    assert isinstance(signed.message, RosterSignature)
    digest, own = signed.message.roster, signed.message.endorsement
    others = [
        type(own)(
            member=member, nonce=epoch._parts[3], signature=of.keys[member].sign(roster_input(roster.run, 0, digest))
        )
        for member, epoch in enumerate(epochs)
    ]
    signatures = RosterSignatures(run=roster.run, epoch=0, roster=digest, endorsements=tuple(others))
    start = encode(signatures)
    begin = time.process_time()
    one.receive(decode(start), NOW)
    start_s = time.process_time() - begin
    assert len(one.agreement.secrets) == 99
    return {
        "members": number,
        "roster_s": roster_s,
        "roster_mb": len(frame) / 1e6,
        "start_s": start_s,
        "start_mb": len(start) / 1e6,
    }


# -- the command ---------------------------------------------------------------------------------


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0], allow_abbrev=False)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="parameters, beside flwr")
    parser.add_argument("--groups", type=int, nargs="+", default=list(GROUPS), help="members, of the cost table")
    parser.add_argument("--cost-sizes", type=int, nargs="+", default=list(COST_SIZES), help="parameters, of that table")
    parser.add_argument("--clients", type=int, default=10_000, help="simulated: hundreds of them, more than 255")
    parser.add_argument("--size", type=int, default=100_000, help="parameters of the simulated clients")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--calls", type=int, default=3, help="a repetition; their median counts")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "secagg.json", help="JSON")
    parser.add_argument("--child-clients", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--child-roster", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main() -> int:
    args = parse()
    if args.child_clients or args.child_roster:
        made = simulate(args.child_clients, args.size) if args.child_clients else check_roster(args.child_roster)
        print(json.dumps(made))
        return 0
    findings, begin = Findings(), machine()
    if begin["load_average"] > 0.5:
        progress(f"load average {begin['load_average']:.1f}: other work is running, and figures will show it")
    for section, run in {"stages": stages, "costs": costs, "clients": clients}.items():
        if section in args.sections:
            run(findings, args)
            write(findings, begin, args.output)
    for gate in findings.gates:
        print(gate)
    return 0 if all(gate.passed for gate in findings.gates) else 1


if __name__ == "__main__":
    sys.exit(main())
