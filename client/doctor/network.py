"""The way to the server: its name, its two ports, who answers there, and the two clocks.

Each port is tried as `join` and the agent would, through the proxy that the environment names for it. What depends on
something that failed is not tried.
"""

import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_address

from wardround.client.doctor.finding import Finding, Level, fine, problem, skipped, warning
from wardround.client.doctor.situation import Address, Situation
from wardround.client.enrolment.certificate_issuer import issuer_of
from wardround.client.enrolment.https_request import request, trusting, unverified
from wardround.client.proxy import Proxy, proxy_for
from wardround.errors import LocalError, RemoteError
from wardround.join_messages import AUTHORITY_PATH, AuthorityAnswer
from wardround.link.limits import Limits
from wardround.plain_text import plain_text
from wardround.tls_identity import TlsAuthority

__all__ = ["check_network", "judge_certificate", "judge_clock"]

_TOO_EARLY, _TOO_LATE, _OTHER_HOST = 9, 10, (62, 64)  # X509_V_ERR_* of OpenSSL
_NOTICED_S = 30.0
_REFUSED_BY_PROXY = "Tunnel connection failed"
_UNOPENED = "have the administrators of the proxy or firewall pass this host through unopened"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Port:
    """One of the server's two; `protocol` is what the first message of TLS offers (ALPN)."""

    check: str
    address: Address
    proxy: Proxy | None
    protocol: str | None

    @property
    def name(self) -> str:
        host, port = self.address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_network(situation: Situation) -> Iterator[Finding]:
    """From the name of the server to a handshake on each of its ports."""
    if situation.server is None or situation.link is None:
        yield skipped("network", "no server is known before this site has joined; name one with --server URL")
        return
    try:
        ports = [
            _Port(check=check, address=one, proxy=proxy_for(*one, situation.environment), protocol=protocol)
            for check, one, protocol in (("https", situation.server, None), ("link", situation.link, "h2"))
        ]
    except LocalError as error:
        yield problem("proxy", str(error), "set it right, or unset it")
        return
    yield _proxies(ports)
    unknown = set()
    for host, direct in {port.address[0]: port.proxy is None for port in ports}.items():
        found = _check_name(host, situation.timeout_s) if direct else skipped("name", f"{host}: left to the proxy")
        yield found
        if found.fix:
            unknown.add(host)
    authority: TlsAuthority | None = None
    for port in ports:
        if port.address[0] in unknown:
            continue
        findings, authority = _Look(situation, port, authority).findings()
        yield from findings


def _proxies(ports: list[_Port]) -> Finding:
    named = [f"{port.name} through {port.proxy.host}:{port.proxy.port}" for port in ports if port.proxy is not None]
    return fine("proxy", ", ".join(named) or "none is named by HTTPS_PROXY for this server")


def _check_name(host: str, timeout_s: float) -> Finding:
    """Whether the name has an address. The system's own call has no time limit, so it is left behind."""
    try:
        ip_address(host)
    except ValueError:
        pass
    else:
        return fine("name", f"{host} is an address")
    answers: list[list[str] | OSError] = []

    def ask() -> None:
        try:
            answers.append([str(one[4][0]) for one in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)])
        except OSError as error:
            answers.append(error)

    thread = threading.Thread(target=ask, name="doctor-name", daemon=True)
    thread.start()
    thread.join(timeout_s)
    fix = "check the spelling and this machine's name servers (/etc/resolv.conf), or set HTTPS_PROXY"
    if not answers:
        return problem("name", f"{host}: the name servers give no answer within {timeout_s:g} s", fix)
    if isinstance(answers[0], OSError):
        return problem("name", f"{host}: has no address ({plain_text(answers[0].strerror or 'unknown')})", fix)
    return fine("name", f"{host} is {', '.join(sorted(set(answers[0])))}")


class _Look:
    """A look at one port. `authority` is what is known of the federation's where it is not pinned."""

    def __init__(self, situation: Situation, port: _Port, authority: TlsAuthority | None) -> None:
        self._situation, self._port = situation, port
        self._authority = authority if situation.authority is None else TlsAuthority(situation.authority)
        self._pinned = situation.authority is not None

    def findings(self) -> tuple[list[Finding], TlsAuthority | None]:
        """In order, and the authority, for the next port."""
        port = self._port
        try:
            shown, version = self._shown()
        except ssl.SSLError as error:
            reached = fine(port.check, f"{port.name} can be reached")
            text = f"{port.name}: answers, but not with TLS ({plain_text(error.reason or 'closed')})"
            return [reached, problem("tls", text, "check the port")], self._authority
        except _UnreachableError as error:
            return [problem(port.check, str(error), error.fix)], self._authority
        findings = [fine(port.check, f"{port.name} can be reached")]
        if port.protocol is None and self._authority is None:
            try:
                self._authority = TlsAuthority(self._ask(unverified()).authority)
            except (LocalError, RemoteError, ssl.SSLError) as error:
                text = f"{plain_text(str(error), 400)} (its certificate is of {issuer_of(shown)})"
                return [*findings, problem("answer", text, "check the address, and what stands between")], None
        findings.append(self._handshake(shown, version))
        if port.protocol is None:
            findings.append(self._clock(verified=findings[-1].level is Level.OK))
        return findings, self._authority

    # -- what is asked --------------------------------------------------------------------------------

    def _socket(self) -> socket.socket:
        """A connection to the port, through the proxy. Raises _UnreachableError."""
        host, port = self._port.address
        proxy, timeout_s = self._port.proxy, self._situation.timeout_s
        at = (host, port) if proxy is None else (proxy.host, proxy.port)
        connection = http.client.HTTPConnection(*at, timeout=timeout_s)
        if proxy is not None:
            headers = {} if proxy.authorization is None else {"Proxy-Authorization": proxy.authorization}
            connection.set_tunnel(host, port, headers)
        try:
            connection.connect()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise _unreachable(self._port, error, timeout_s) from None
        made: socket.socket = connection.sock
        return made

    def _shown(self) -> tuple[bytes, str]:
        """The certificate (DER) of whoever answers, and the version of TLS; nothing is checked."""
        context = unverified()
        if self._port.protocol is not None:
            context.set_alpn_protocols([self._port.protocol])
        with self._socket() as plain, self._wrapped(context, plain) as secured:
            return secured.getpeercert(True) or b"", str(secured.version())

    def _wrapped(self, context: ssl.SSLContext, plain: socket.socket) -> ssl.SSLSocket:
        try:
            return context.wrap_socket(plain, server_hostname=self._port.address[0])
        except ssl.SSLError:
            raise
        except OSError as error:
            text = f"{self._port.name}: is cut off when TLS begins ({plain_text(error.strerror or 'no answer')})"
            raise _UnreachableError(text, "a firewall may do that: have it pass this host through") from None

    def _ask(self, context: ssl.SSLContext) -> AuthorityAnswer:
        answer = request(
            *self._port.address,
            AUTHORITY_PATH,
            context=context,
            proxy=self._port.proxy,
            timeout_s=self._situation.timeout_s,
        )
        if answer.status != 200:
            raise RemoteError(f"{self._port.name}: expected a wardround server, got HTTP {answer.status}")
        return AuthorityAnswer.read(answer.body)

    # -- what is made of it ---------------------------------------------------------------------------

    def _handshake(self, shown: bytes, version: str) -> Finding:
        """As `join` and the agent do it: TLS 1.3, with a server of the federation's authority alone."""
        port = self._port
        if self._authority is None:
            text = f"{port.name}: shows a certificate of {issuer_of(shown)}; whose it should be is unknown"
            return skipped("tls", text)
        unlike = judge_certificate(port.name, shown, self._authority)
        if unlike is not None:
            return unlike
        context = trusting(self._authority.der)
        own = port.protocol is not None and self._shows_own(context)
        if port.protocol is not None:
            context.set_alpn_protocols([port.protocol])
        try:
            with self._socket() as plain, self._wrapped(context, plain) as secured:
                if secured.selected_alpn_protocol() != port.protocol:
                    text = f"{port.name}: the server is there, but not its port for sites"
                    return problem("tls", text, "check the port; a proxy on one public port goes by ALPN h2")
                refused = _refusal(secured) if own else None
        except ssl.SSLCertVerificationError as error:
            return self._distrusted(error)
        except ssl.SSLError as error:
            text = f"{port.name}: no connection with TLS 1.3 ({plain_text(error.reason or 'closed')})"
            return problem("tls", f"{text}, but with {version}", _UNOPENED)
        except _UnreachableError as error:
            return problem("tls", str(error), error.fix)
        if refused is not None:
            text = f"{port.name}: the server does not take this site's certificate ({refused})"
            return problem("tls", text, "see `certificate` and `clock`, and ask the coordinator")
        whose = "the authority of this federation" if self._pinned else "the authority that it names; join checks which"
        return fine("tls", f"{port.name}: {version}, a certificate of {whose}")

    def _shows_own(self, context: ssl.SSLContext) -> bool:
        """Have `context` show the site's own certificate; False where there is none that could be shown."""
        try:
            context.load_cert_chain(self._situation.path / "tls-identity.pem")
        except OSError:  # of which ssl.SSLError is one; another check says what is wrong with the file
            return False
        return True

    def _distrusted(self, error: ssl.SSLCertVerificationError) -> Finding:
        host = self._port.address[0]
        if error.verify_code in (_TOO_EARLY, _TOO_LATE):
            text = f"{self._port.name}: its certificate is not valid on {self._situation.now():%Y-%m-%d %H:%M} UTC"
            return problem("tls", text, "set the clock right, or have the server restarted")
        if error.verify_code in _OTHER_HOST:
            text = f"{self._port.name}: its certificate is of this federation, but not for {host}"
            return problem("tls", text, "ask the coordinator for an address with a name that the server has")
        return problem("tls", f"{self._port.name}: {plain_text(error.verify_message)}", "tell the coordinator")

    def _clock(self, *, verified: bool) -> Finding:
        """By the server's clock, or by that of whoever answers in its place."""
        authority = self._authority
        context = trusting(authority.der) if verified and authority is not None else unverified()
        try:
            answer = self._ask(context)
        except (LocalError, RemoteError, ssl.SSLError) as error:
            return problem("clock", f"the server does not say its time: {plain_text(str(error), 400)}", "see above")
        return judge_clock(answer.time, self._situation.now(), verified=verified)


def judge_certificate(name: str, shown: bytes, authority: TlsAuthority) -> Finding | None:
    """What to say of a certificate (DER) that `name` has shown; None for one of the federation's authority."""
    if authority.issued(shown):
        return None
    text = (
        f"{name}: expected a certificate of the federation's authority, got one of {issuer_of(shown)}: something opens "
        "TLS connections on their way (a TLS-inspecting proxy), or another server answers"
    )
    return problem("tls", text, _UNOPENED)


def judge_clock(theirs: datetime, ours: datetime, *, verified: bool = True) -> Finding:
    """Two clocks may be 5 minutes apart, for `join` and for the agent."""
    skew_s = (ours - theirs).total_seconds()
    whose = "the server's" if verified else "what answers in the server's place"
    text = f"{abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} {whose}"
    if abs(skew_s) > Limits().most_clock_skew_s:
        return problem("clock", f"{text}, {Limits().most_clock_skew_s:.0f} s are allowed", "set the clock (NTP)")
    if abs(skew_s) > _NOTICED_S:
        return warning("clock", text, "let the clock be set by NTP (timedatectl set-ntp true)")
    return fine("clock", text)


def _refusal(secured: ssl.SSLSocket) -> str | None:
    """Why the server does not take the certificate that it has only now seen; None where it goes on."""
    try:
        return None if secured.recv(1) else "closed"
    except ssl.SSLError as error:
        return plain_text(error.reason or "closed")
    except OSError as error:
        return plain_text(error.strerror or "no answer")


class _UnreachableError(Exception):
    def __init__(self, text: str, fix: str) -> None:
        super().__init__(text)
        self.fix = fix


def _unreachable(port: _Port, error: OSError | http.client.HTTPException, timeout_s: float) -> _UnreachableError:
    proxy, reason = port.proxy, plain_text(str(error))
    if proxy is not None:
        where = f"the proxy {proxy.host}:{proxy.port}"
        if reason.startswith(_REFUSED_BY_PROXY):
            said = reason.removeprefix(_REFUSED_BY_PROXY).strip(": ")
            fix = (
                "put its login into HTTPS_PROXY" if said.startswith("407") else f"have it allow CONNECT to {port.name}"
            )
            return _UnreachableError(f"{where} refuses {port.name} ({said})", fix)
        if isinstance(error, http.client.HTTPException):
            return _UnreachableError(f"{where} does not answer as an HTTP proxy", "check HTTPS_PROXY")
    else:
        where = port.name
    fix = "check HTTPS_PROXY" if proxy is not None else "let this machine call it in the firewall, or set HTTPS_PROXY"
    if isinstance(error, TimeoutError):
        return _UnreachableError(f"{where}: no answer within {timeout_s:g} s", fix)
    if isinstance(error, socket.gaierror):
        said = "its name is not known"
    else:
        said = plain_text(getattr(error, "strerror", None) or reason)
    return _UnreachableError(f"{where}: cannot be reached ({said})", fix)
