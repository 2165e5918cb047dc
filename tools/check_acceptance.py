"""Is every promise shown by a test that ran, or by a command that exists?

    python tools/check_acceptance.py --outcomes .build/outcomes.json

docs/acceptance.md maps each numbered item of a piece of work to its evidence; its head describes the form. This
fails when an item has no evidence, a named test did not run or did not pass, a named command does not exist, or a
test was skipped (or is expected to fail) without being listed, with the reason, under `## Skips`.
"""

import argparse
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from check_commands import ROOT, problem_with

_ITEM = re.compile(r"^### (?P<work>\d+)\.(?P<item>[\w-]+) +(?P<title>\S.*)$")
_EVIDENCE = re.compile(r"^- `(?P<evidence>[^`]+)`\s*(?P<note>.*)$")
_COMMANDS = ("make", "wardround", "python", "flwr")


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One numbered item and the test ids and commands that show it."""

    line: int
    work: int
    name: str
    evidence: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """What docs/acceptance.md says."""

    items: list[Item]
    skips: dict[str, str]
    problems: list[str]


def parse(markdown: str) -> Acceptance:
    """Items, evidence and skips; malformed lines and gaps in the numbering as problems."""
    items: list[Item] = []
    skips: dict[str, str] = {}
    problems: list[str] = []
    section = ""
    for number, line in enumerate(markdown.splitlines(), start=1):
        if line.startswith("## "):
            section = line[3:].strip()
        elif line.startswith("### "):
            if match := _ITEM.match(line):
                items.append(Item(line=number, work=int(match["work"]), name=match["item"]))
            else:
                problems.append(f"line {number}: expected `### WORK.ITEM title`, got `{line}`")
        elif line.startswith("- ") and section == "Skips":
            match = _EVIDENCE.match(line)
            if match and match["note"].strip(" :-–—"):
                skips[match["evidence"]] = match["note"]
            else:
                problems.append(f"line {number}: expected a test id in backquotes and a reason, got `{line}`")
        elif line.startswith("- ") and items and section[:1].isdigit():
            if match := _EVIDENCE.match(line):
                items[-1].evidence.append(match["evidence"])
            else:
                problems.append(f"line {number}: expected a test id or command in backquotes, got `{line}`")
    for work in sorted({item.work for item in items}):
        names = [item.name for item in items if item.work == work]
        numbered = [name for name in names if name.isdigit()]
        if numbered != [str(i + 1) for i in range(len(numbered))]:
            problems.append(f"work {work}: expected items 1, 2, 3, ... without a gap, got {', '.join(numbered)}")
        problems += [f"work {work}: item {n} appears twice" for n in sorted(set(names)) if names.count(n) > 1]
    if not items:
        problems.append("there is no item at all")
    return Acceptance(items=items, skips=skips, problems=problems)


def matching(evidence: str, outcomes: dict[str, str]) -> list[str]:
    """The node ids that a test id stands for: itself, its parameters, or all tests of its class, file or folder."""
    return [
        test
        for test in outcomes
        if test == evidence or (test.startswith(evidence) and (test[len(evidence)] in "[:/" or evidence[-1] == "/"))
    ]


def check(acceptance: Acceptance, outcomes: dict[str, str]) -> list[str]:
    """Everything that is wrong, one line each."""
    problems = list(acceptance.problems)
    excused = {test for skip in acceptance.skips for test in matching(skip, outcomes)}
    problems += [
        f"skips: {skip} did not appear in the run" for skip in acceptance.skips if not matching(skip, outcomes)
    ]
    problems += [
        f"{test} {outcome}, and is not listed under Skips with a reason"
        for test, outcome in outcomes.items()
        if outcome in {"skipped", "xfailed"} and test not in excused
    ]
    for item in acceptance.items:
        where = f"line {item.line}: item {item.work}.{item.name}"
        if not item.evidence:
            problems.append(f"{where} has no evidence")
        for evidence in item.evidence:
            if evidence.startswith("tests/"):
                ended = {outcomes[test] for test in matching(evidence, outcomes)}
                if not ended:
                    problems.append(f"{where}: {evidence} did not run")
                elif "failed" in ended:
                    problems.append(f"{where}: {evidence} failed")
            elif not evidence.removeprefix(".venv/bin/").startswith(_COMMANDS):
                problems.append(f"{where}: expected a test id or a command ({', '.join(_COMMANDS)}), got `{evidence}`")
            elif problem := problem_with(evidence):
                problems.append(f"{where}: `{evidence}`: {problem}")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description="Check docs/acceptance.md against a test run.")
    parser.add_argument("--outcomes", type=Path, required=True, help="what `pytest --outcomes FILE` wrote")
    parser.add_argument("--document", type=Path, default=ROOT / "docs" / "acceptance.md")
    options = parser.parse_args()
    acceptance = parse(options.document.read_text())
    outcomes: dict[str, str] = json.loads(options.outcomes.read_text())
    problems = check(acceptance, outcomes)
    for problem in problems:
        print(f"{options.document.name}: {problem}", file=sys.stderr)
    if not problems:
        print(f"{len(acceptance.items)} items are shown by tests that ran and commands that exist")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
