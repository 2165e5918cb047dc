"""The link beside bare sockets and one large gRPC message: ``python benchmarks/link.py [--floats N]``.

Each run is two new processes on the loopback interface: a receiver with its destination already in memory, and a
sender. Parties take turns, ratios are taken within a repetition.

    ours    a site's reply over the whole link: TLS 1.3 mutual, chunks of 1 MiB with a checksum each, GMAC at the end
    tls     `sendall` and `recv_into` over a TLS 1.3 socket of Python's `ssl`, with nothing else: no checksum, no digest
    tcp     the same without TLS
    unary   one gRPC message of the whole size over the same TLS, limits raised, copied to the destination

Seconds are the receiver's, from asking to having all. ``clients`` sends to one server from several sites at once and
counts what the server's memory grows by beyond the destinations. Exit code 1 when a gate is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from environments import HERE
from simulation import Findings, Gate, interleaved, machine, paired_ratios, print_table, progress, spread, values, write

OURS, TLS, TCP, UNARY = PARTIES = ("ours", "tls", "tcp", "unary")
SITE = "Hospital"
CHUNK_BYTES = 1 << 20
SOCKET_GATE, UNARY_GATE, WIRE_GATE, MEMORY_GATE_MIB = 0.7, 4.0, 1.02, 64.0


# -- certificates --------------------------------------------------------------------------------


def write_certificates(folder: Path) -> None:
    """An authority, a server and a site, as PEM files for one run."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("authority", "server", "site")}
    now = datetime.now(UTC)
    for name, key in keys.items():
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority")]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(name == "authority", None), critical=True)
        )
        if name == "server":
            names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        made = builder.sign(keys["authority"], hashes.SHA256())
        (folder / f"{name}.pem").write_bytes(made.public_bytes(Encoding.PEM))
        (folder / f"{name}-key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def pem(folder: Path, name: str) -> bytes:
    return (folder / f"{name}.pem").read_bytes()


def context(folder: Path, *, server: bool) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.load_verify_locations(folder / "authority.pem")
    name = "server" if server else "site"
    made.load_cert_chain(folder / f"{name}.pem", folder / f"{name}-key.pem")
    made.verify_mode = ssl.CERT_REQUIRED
    return made


# -- what is measured ----------------------------------------------------------------------------


def touched(size: int) -> memoryview:
    """Memory that is there already, so that nobody's figures hold its page faults."""
    made = memoryview(bytearray(size))
    for at in range(0, size, 4096):
        made[at] = 1
    return made


def payload(size: int) -> memoryview:
    block = os.urandom(CHUNK_BYTES)
    return memoryview((block * (size // CHUNK_BYTES + 1))[:size])


def status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise AssertionError(field)


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def wire_bytes(port: int) -> int:
    """Bytes that this process has received and sent over its connections at `port`, by the kernel's count."""
    total = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as one:
                if one.type == socket.SOCK_STREAM and one.getsockname()[1] == port:
                    one.getpeername()
                    info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 232)
                    received, sent = struct.unpack_from("Q", info, 128)[0], struct.unpack_from("Q", info, 200)[0]
                    total += received + sent
        except (OSError, IndexError):
            continue
    return total


class Measured:
    """Between `begin` and `end`: seconds, CPU seconds of this process, growth of its peak memory, bytes on the wire."""

    def begin(self, port: int) -> None:
        reset_peak()
        self._port, self._wire, self._rss = port, wire_bytes(port), status_bytes("VmRSS")
        self._cpu, self._start = time.process_time(), time.perf_counter()

    def end(self, size: int) -> dict[str, float]:
        seconds = time.perf_counter() - self._start
        return {
            "seconds": seconds,
            "cpu_s": time.process_time() - self._cpu,
            "gigabytes_a_second": size / seconds / 1e9,
            "over_destination_mib": (status_bytes("VmHWM") - self._rss) / (1 << 20),
            "wire_over_payload": (wire_bytes(self._port) - self._wire) / size,
        }


# -- receivers and senders -----------------------------------------------------------------------


def receive_socket(folder: Path, size: int, *, tls: bool) -> dict[str, float]:
    target, measured = touched(size), Measured()
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    with sender(TLS if tls else TCP, folder, port, size), listening:
        one = listening.accept()[0]
        raw = one.fileno()
        if tls:
            one = context(folder, server=True).wrap_socket(one, server_side=True)
            raw = one.fileno()
        one.recv(1)  # the sender is ready
        del raw
        measured.begin(port)
        one.sendall(b"!")
        at = 0
        while at < size:
            at += one.recv_into(target[at : at + CHUNK_BYTES])
        found = measured.end(size)
        one.sendall(b"!")
        one.close()
    return found


def send_socket(folder: Path, port: int, size: int, *, tls: bool) -> None:
    data = payload(size)
    one = socket.create_connection(("127.0.0.1", port))
    if tls:
        one = context(folder, server=False).wrap_socket(one, server_hostname="localhost")
    one.sendall(b"?")
    one.recv(1)
    for at in range(0, size, CHUNK_BYTES):
        one.sendall(data[at : at + CHUNK_BYTES])
    one.recv(1)


def server_tls(folder: Path) -> Any:
    from wardround.link.tls import ServerTls

    return ServerTls(
        certificate_chain=pem(folder, "server"),
        private_key=pem(folder, "server-key"),
        authority=pem(folder, "authority"),
    )


def client_tls(folder: Path) -> Any:
    from wardround.link.tls import ClientTls

    return ClientTls(
        certificate_chain=pem(folder, "site"), private_key=pem(folder, "site-key"), authority=pem(folder, "authority")
    )


class Everyone:
    """Sites are numbered as they come: all have one certificate here."""

    def __init__(self, sites: int) -> None:
        self._left = list(range(sites))

    def admit(self, certificate_der: bytes) -> Any:
        return f"{SITE} {self._left.pop()}"

    def still(self, certificate_der: bytes) -> bool:
        return True


def receive_ours(folder: Path, size: int, sites: int = 1) -> dict[str, float]:
    from wardround.link.messages import Call
    from wardround.server.link.hub import Hub

    async def ignore(site: Any, notice: Any) -> None: ...

    async def run() -> dict[str, float]:
        targets = {f"{SITE} {number}": touched(size) for number in range(sites)}
        tls, measured = server_tls(folder), Measured()
        hub = Hub(Everyone(sites), on_notice=ignore)  # type: ignore[arg-type]
        port = await hub.start("127.0.0.1", 0, lambda: tls)

        async def ask(site: Any, order: bytes) -> None:
            reply = await hub.call(
                site,
                Call(run=site, kind="train", order=order),
                timeout_s=600,
                allocate=lambda _: targets[site],
                most_bytes=size,
            )
            assert reply.frame.nbytes == size * (order == b"all")

        senders = [sender(OURS, folder, port, size) for _ in range(sites)]
        await asyncio.gather(*(ask(site, b"nothing") for site in targets))  # they are attached, and warm
        measured.begin(port)
        await asyncio.gather(*(ask(site, b"all") for site in targets))
        found = measured.end(size * sites)
        await hub.stop()
        for one in senders:
            one.wait()
        return found

    return asyncio.run(run())


def send_ours(folder: Path, port: int, size: int) -> None:
    from wardround.client.link.connection import Connection
    from wardround.link.messages import Call, Notice, Reply

    data, stop = payload(size), threading.Event()

    class Sends:
        def call(self, call: Call) -> Reply:
            return Reply(frame=data) if call.order == b"all" else Reply()

        def notice(self, notice: Notice) -> None: ...

        def state(self, attached: bool, reason: str) -> None:
            if not attached:
                stop.set()

    Connection(f"localhost:{port}", lambda: client_tls(folder), Sends(), software="benchmark").run(stop)


def receive_unary(folder: Path, size: int) -> dict[str, float]:
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    from wardround.link.tls import server_credentials

    target, measured, tls = touched(size), Measured(), server_tls(folder)
    found: dict[str, float] = {}

    def take(message: bytes, _: Any) -> bytes:
        if len(message) == size:
            target[:] = message
            found.update(measured.end(size))
        else:
            measured.begin(port)
        return b""

    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", -1)])
    handler: Any = grpc.unary_unary_rpc_method_handler(take)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench", {"Take": handler}),))
    port = server.add_secure_port("127.0.0.1:0", server_credentials(lambda: tls))
    server.start()
    sender(UNARY, folder, port, size).wait()
    server.stop(0)
    return found


def send_unary(folder: Path, port: int, size: int) -> None:
    import grpc

    from wardround.link.tls import client_credentials

    data = bytes(payload(size))
    options = [("grpc.max_send_message_length", -1), ("grpc.enable_retries", 0)]
    with grpc.secure_channel(f"localhost:{port}", client_credentials(client_tls(folder)), options) as channel:
        take: Any = channel.unary_unary("/bench/Take")
        take(b"begin")
        take(data)


def sender(party: str, folder: Path, port: int, size: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, "--child", "send", party, str(folder), str(port), str(size)]
    return subprocess.Popen(command)


def child(role: str, party: str, folder: Path, *numbers: int) -> None:
    if role == "send":
        port, size = numbers
        if party == OURS:
            send_ours(folder, port, size)
        elif party == UNARY:
            send_unary(folder, port, size)
        else:
            send_socket(folder, port, size, tls=party == TLS)
        return
    size, sites = numbers
    if party == OURS:
        found = receive_ours(folder, size, sites)
    elif party == UNARY:
        found = receive_unary(folder, size)
    else:
        found = receive_socket(folder, size, tls=party == TLS)
    print(json.dumps({**found, "children_cpu_s": resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime}))


def one_run(party: str, folder: Path, size: int, sites: int = 1) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", "receive", party, str(folder), str(size), str(sites)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{party} failed ({done.returncode}):\n{done.stderr[-3000:]}")
    made: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return made


# -- the command ---------------------------------------------------------------------------------


def compare(findings: Findings, args: argparse.Namespace, folder: Path) -> None:
    """One site, all parties."""
    size, runs = 4 * args.floats, {party: list[dict[str, Any]]() for party in PARTIES}
    for repetition, party in interleaved(PARTIES, args.repetitions):
        found = one_run(party, folder, size)
        runs[party].append({"case": "one site", "party": party, "repetition": repetition, "bytes": size, **found})
        progress(f"{party}: {found['gigabytes_a_second']:.2f} GB/s")
    findings.runs += [run for of in runs.values() for run in of]
    rows = [("party", "GB/s", "ours over it", "receiver's CPU, s", "over the destination, MiB", "wire over payload")]
    for party in PARTIES:
        ratios = paired_ratios(runs[party], runs[OURS], "seconds")
        columns = (("cpu_s", 2), ("over_destination_mib", 1), ("wire_over_payload", 4))
        figures = [spread(values(runs[party], key), digits) for key, digits in columns]
        rows.append((party, spread(values(runs[party], "gigabytes_a_second"), 2), spread(ratios, 2), *figures))
        bound = {TLS: SOCKET_GATE, UNARY: UNARY_GATE}.get(party)
        if bound is not None:
            name = f"{args.floats:g} float32: throughput over that of {party}"
            findings.gates.append(Gate(name=name, measured=statistics.median(ratios), bound=bound, at_least=True))
    worst = max(values(runs[OURS], "wire_over_payload"))
    findings.gates.append(Gate(name="bytes on the wire over payload", measured=worst, bound=WIRE_GATE, at_least=False))
    bound = MEMORY_GATE_MIB + 1
    worst = max(values(runs[OURS], "over_destination_mib"))
    findings.gates.append(Gate(name="one site: MiB over destination", measured=worst, bound=bound, at_least=False))
    print_table(rows)


def clients(findings: Findings, args: argparse.Namespace, folder: Path) -> None:
    """Several sites at once."""
    for sites in args.sites:
        size = 4 * args.floats // sites
        found = one_run(OURS, folder, size, sites)
        findings.runs.append({"case": "clients", "party": OURS, "sites": sites, "bytes": size, **found})
        bound, name = MEMORY_GATE_MIB + sites, f"{sites} sites at once: MiB over destinations"
        gate = Gate(name=name, measured=found["over_destination_mib"], bound=bound, at_least=False)
        findings.gates.append(gate)
        progress(f"{sites} sites at once: {found['gigabytes_a_second']:.2f} GB/s together")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0], allow_abbrev=False)
    parser.add_argument("--floats", type=int, default=100_000_000)
    parser.add_argument(
        "--sites", type=int, nargs="+", default=[8, 32], help="that send at once: as many floats in all"
    )
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "link.json", help="JSON")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main() -> int:
    args = parse()
    if args.child:
        role, party, folder, *numbers = args.child
        child(role, party, Path(folder), *map(int, numbers))
        return 0
    findings, begin = Findings(), machine()
    if begin["load_average"] > 0.5:
        progress(f"load average {begin['load_average']:.1f}: other work is running, and figures will show it")
    with tempfile.TemporaryDirectory() as name:
        write_certificates(Path(name))
        compare(findings, args, Path(name))
        clients(findings, args, Path(name))
    write(findings, begin, args.output)
    for gate in findings.gates:
        print(gate)
    return 0 if all(gate.passed for gate in findings.gates) else 1


if __name__ == "__main__":
    sys.exit(main())
