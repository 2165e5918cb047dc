"""A page as a browser takes it apart."""

import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

VOID_TAGS = {"meta", "link", "img", "br", "input", "hr"}


class Page(HTMLParser):
    """The parts of a report; refuses tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[tuple[str | None, str]] = []
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID_TAGS:
            self._open.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1][0] == "script":
            self.scripts.append((self._open[-1][1].get("type"), data))
        elif not self._open or self._open[-1][0] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))

    @property
    def sections(self) -> list[str | None]:
        return [attributes["id"] for tag, attributes in self.tags if tag == "section"]

    @property
    def policy(self) -> str | None:
        kinds = {a.get("http-equiv"): a.get("content") for tag, a in self.tags if tag == "meta"}
        return kinds["Content-Security-Policy"]

    @property
    def figures(self) -> list[dict[str, Any]]:
        return [json.loads(data) for kind, data in self.scripts if kind == "application/json"]


def strings_of(value: Any) -> Sequence[str]:
    """Every text in plots, which read some tags themselves."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [text for item in value for text in strings_of(item)] if isinstance(value, list) else []


def check_nothing_is_loaded(shown: Page) -> None:
    """Fail when anything in the page could make a browser fetch something, or its policy would allow it."""
    loading = {"src", "srcset", "data", "poster", "background", "action", "formaction", "ping", "xlink:href"}
    for tag, attributes in shown.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base", "img", "form"}
        assert not loading & set(attributes)
        assert (attributes.get("href") or "#").startswith("#")
        assert "url(" not in (attributes.get("style") or "")
    assert (shown.policy or "").startswith("default-src 'none';")
