"""A reader of units, as systemd.syntax(7) and systemd.service(5) have them: for tests, so that no systemd is needed."""

from collections import defaultdict

__all__ = ["sections", "words"]


def sections(text: str) -> dict[str, dict[str, list[str]]]:
    """Section → setting → its values, in order. AssertionError for a line that is none."""
    found: dict[str, dict[str, list[str]]] = {}
    current: dict[str, list[str]] | None = None
    for line in text.split("\n"):
        if not line.strip() or line.lstrip()[0] in "#;":
            continue
        assert not line.endswith("\\"), f"goes on in the next line: {line}"
        if line.startswith("["):
            assert line.endswith("]") and line[1:-1] not in found, line
            current = found[line[1:-1]] = defaultdict(list)
            continue
        name, equals, value = line.partition("=")
        assert current is not None and equals and name.isidentifier(), line
        current[name].append(value)
    return found


def words(value: str) -> list[str]:
    """The words of a value, unquoted, with %% for %. AssertionError for another specifier."""
    found, at = list[str](), 0
    while at < len(value):
        if value[at] == " ":
            at += 1
            continue
        word, quote = "", ""
        while at < len(value) and (quote or value[at] != " "):
            letter = value[at]
            if letter == "\\":
                at += 1
                letter = value[at]
                assert letter in '\\"', f"an escape that was not meant: {value}"
            elif letter == quote:
                quote, letter = "", ""
            elif not quote and letter in "\"'":
                quote, letter = letter, ""
            elif letter == "%":
                at += 1
                assert value[at] == "%", f"a specifier that was not meant: {value}"
            word += letter
            at += 1
        assert not quote, value
        found.append(word)
    return found
