"""Telling the server that a site leaves, so that it ends the site's certificates."""

import os
import ssl
from collections.abc import Callable, Mapping
from datetime import datetime

from wardround.client.agent.site_folder import SiteFolder
from wardround.client.enrolment.exit_codes import JoinError, JoinExit
from wardround.client.enrolment.https_request import request, trusting
from wardround.client.enrolment.site_files import SiteFiles
from wardround.client.proxy import proxy_for
from wardround.clock import utc_now
from wardround.invitation import host_and_port
from wardround.join_messages import LEAVE_PATH, LeaveRequest, leave_statement
from wardround.orders import SiteId
from wardround.plain_text import plain_text
from wardround.tls_identity import der_of

__all__ = ["say_goodbye"]


def say_goodbye(
    folder: SiteFolder,
    *,
    environment: Mapping[str, str] | None = None,
    now: Callable[[], datetime] = utc_now,
    timeout_s: float = 30.0,
) -> None:
    """Let the server put the site of `folder` out, by a word that its signing key signs; twice is once.

    Only a server with a certificate of the site's authority is told. Raises LocalError where it has not said yes.
    """
    url, name, time = folder.facts.url, SiteId(folder.name), now().replace(microsecond=0)
    proof = folder.signing_key.sign(leave_statement(folder.server, name, time))
    host, port = host_and_port(url)
    try:
        answer = request(
            host,
            port,
            LEAVE_PATH,
            context=trusting(der_of(SiteFiles(folder.path).tls().authority)),
            proxy=proxy_for(host, port, os.environ if environment is None else environment),
            body=LeaveRequest(name=name, time=time, proof=proof).encode(),
            timeout_s=timeout_s,
        )
    except ssl.SSLError as error:
        raise JoinError(
            JoinExit.INTERCEPTED,
            f"{url}: expected a server with a certificate of this federation ({plain_text(error.reason or 'closed')})",
        ) from None
    if answer.status != 200:
        said = plain_text(str(answer.body.get("message", ""))) or "no reason given"
        raise JoinError(JoinExit.ANSWER, f"{url}: refuses (HTTP {answer.status}): {said}")
