"""Which proxy the environment names for a host, for `join` and for the agent."""

import base64

import pytest

from wardround.client.proxy import Proxy, proxy_for
from wardround.errors import LocalError

HOST, PORT = "fl.example.org", 8444
PROXY = "http://p:3128"
P = Proxy(host="p", port=3128)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"HTTP_PROXY": PROXY, "http_proxy": PROXY, "ALL_PROXY": PROXY}, None),
        ({"HTTPS_PROXY": ""}, None),
        ({"HTTPS_PROXY": PROXY}, P),
        ({"https_proxy": PROXY}, P),
        ({"HTTPS_PROXY": "p:3128"}, P),
        ({"HTTPS_PROXY": "HTTP://p:3128/"}, P),
        ({"HTTPS_PROXY": "http://p"}, Proxy(host="p", port=80)),
        ({"HTTPS_PROXY": "http://u:w@p"}, Proxy(host="p", port=80, login="u:w")),
        ({"HTTPS_PROXY": PROXY, "https_proxy": "http://q:1"}, Proxy(host="q", port=1)),
        ({"HTTPS_PROXY": PROXY, "https_proxy": ""}, None),
        ({"HTTPS_PROXY": "http://[::1]:3128"}, Proxy(host="::1", port=3128)),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": HOST, "no_proxy": ""}, P),
    ],
)
def test_the_environment_names_a_proxy(environment: dict[str, str], expected: Proxy | None) -> None:
    assert proxy_for(HOST, PORT, environment) == expected


@pytest.mark.parametrize(
    ("proxy", "url"),
    [
        ("p", "http://p:80"),
        ("http://[fd00::7]:1", "http://[fd00::7]:1"),
        ("http://anna:s%3Acr%40t%20@p:1/", "http://anna:s%3Acr%40t%20@p:1"),
        ("http://anna:s@cret@p:1", "http://anna:s%40cret@p:1"),
        ("http://anna@p:1", "http://anna:@p:1"),
    ],
)
def test_as_a_url_it_is_what_grpc_reads(proxy: str, url: str) -> None:
    found = proxy_for(HOST, PORT, {"HTTPS_PROXY": proxy})
    assert found is not None and found.url == url


def test_its_login_is_decoded_and_not_shown() -> None:
    found = proxy_for(HOST, PORT, {"HTTPS_PROXY": "http://anna:s%3Acr%40t@p:1"})
    assert found is not None
    assert found.authorization == "Basic " + base64.b64encode(b"anna:s:cr@t").decode()
    assert "cr@t" not in repr(found)
    assert P.authorization is None


@pytest.mark.parametrize(
    ("patterns", "host", "covered"),
    [
        ("*", HOST, True),
        (HOST, HOST, True),
        ("FL.example.ORG", HOST, True),
        (HOST, "FL.example.ORG.", True),
        ("example.org", HOST, True),
        (".example.org", HOST, True),
        ("*.example.org", HOST, True),
        ("a.org, example.org ,b.org", HOST, True),
        ("a.org example.org", HOST, True),
        ("ample.org", HOST, False),
        ("other.org", HOST, False),
        ("", HOST, False),
        (",", HOST, False),
        (".", HOST, False),
        ("nonsense/99", HOST, False),
        ("fl.example.org:8444", HOST, True),
        ("example.org:8444", HOST, True),
        ("fl.example.org:443", HOST, False),
        (":8444", HOST, False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3:8444", "10.1.2.3", True),
        ("10.1.2.3:443", "10.1.2.3", False),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("2.3", "10.1.2.3", False),
        (".2.3", "10.1.2.3", False),
        ("*.2.3", "10.1.2.3", False),
        ("3", "10.1.2.3", False),
        ("nonsense/99", "10.1.2.3", False),
        ("::1", "::1", True),
        ("[::1]", "::1", True),
        ("[::1]:8444", "::1", True),
        ("[::1]:1", "::1", False),
        ("fd00::/8", "fd00::7", True),
        ("fd00::7:8444", "fd00::7", False),
        ("10.0.0.0/8", "fd00::7", False),
    ],
)
def test_exceptions(patterns: str, host: str, covered: bool) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        assert (proxy_for(host, PORT, {"HTTPS_PROXY": PROXY, name: patterns}) is None) == covered


@pytest.mark.parametrize(
    "text",
    [
        "https://p:1",
        "socks5://p:1",
        "http://",
        "http://p:0",
        "http://p:x",
        "http://p:99999",
        "http://[::1",
        "http://p/x",
    ],
)
@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy"])
def test_another_kind_is_refused_without_its_login(name: str, text: str) -> None:
    with pytest.raises(LocalError, match=f"^{name}: expected http://HOST:PORT") as caught:
        proxy_for(HOST, PORT, {name: text.replace("//", "//anna:secret@")})
    assert "secret" not in str(caught.value)
