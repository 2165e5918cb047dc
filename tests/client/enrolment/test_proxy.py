"""Which proxy the environment names for a host."""

import base64

import pytest

from wardround.client.enrolment.proxy import Proxy, proxy_for
from wardround.errors import LocalError

HOST = "fl.example.org"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"HTTP_PROXY": "http://p:1", "http_proxy": "http://p:1", "ALL_PROXY": "http://p:1"}, None),
        ({"HTTPS_PROXY": ""}, None),
        ({"HTTPS_PROXY": "http://p:3128"}, Proxy(host="p", port=3128)),
        ({"HTTPS_PROXY": "p:3128"}, Proxy(host="p", port=3128)),
        ({"HTTPS_PROXY": "http://p"}, Proxy(host="p", port=80)),
        ({"HTTPS_PROXY": "http://p:3128", "https_proxy": "http://q:1"}, Proxy(host="q", port=1)),
        ({"HTTPS_PROXY": "http://[::1]:3128"}, Proxy(host="::1", port=3128)),
    ],
)
def test_the_environment_names_a_proxy(environment: dict[str, str], expected: Proxy | None) -> None:
    assert proxy_for(HOST, environment) == expected


def test_its_login_is_decoded_and_not_shown() -> None:
    found = proxy_for(HOST, {"HTTPS_PROXY": "http://anna:s%3Acr%40t@p:1"})
    assert found is not None
    assert found.authorization == "Basic " + base64.b64encode(b"anna:s:cr@t").decode()
    assert "Basic" not in repr(found)


@pytest.mark.parametrize(
    ("pattern", "host", "covered"),
    [
        ("*", HOST, True),
        (HOST, HOST, True),
        ("FL.example.ORG", HOST, True),
        ("example.org", HOST, True),
        (".example.org", HOST, True),
        ("*.example.org", HOST, True),
        ("a.org, example.org ,b.org", HOST, True),
        ("ample.org", HOST, False),
        ("other.org", HOST, False),
        ("", HOST, False),
        (",", HOST, False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("::1", "::1", True),
        ("2.3", "10.1.2.3", False),
    ],
)
def test_exceptions(pattern: str, host: str, covered: bool) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        assert (proxy_for(host, {"HTTPS_PROXY": "http://p:1", name: pattern}) is None) == covered


@pytest.mark.parametrize(
    "text", ["https://p:1", "socks5://p:1", "http://", "http://p:0", "http://p:x", "http://p:99999"]
)
def test_another_kind_is_refused_without_its_login(text: str) -> None:
    with pytest.raises(LocalError, match="HTTPS_PROXY: expected http://HOST:PORT") as caught:
        proxy_for(HOST, {"HTTPS_PROXY": text.replace("//", "//anna:secret@")})
    assert "secret" not in str(caught.value)
