"""Do the commands that a document tells its reader to type exist?

    python tools/check_commands.py README.md docs/*.md

Reads the console blocks (```console, ```sh, ```bash) of each file. Nothing is run but `wardround ... --help`, which
also refuses an unknown option: a make target has to be in the Makefile, a script in the tree, `flwr` installed.
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent  # not resolved: the interpreter of a virtual environment is a link
_FENCE = re.compile(r"^ {0,3}```\s*(\w*)")
_SHELLS = {"console", "sh", "bash", "shell"}


@cache
def make_targets() -> frozenset[str]:
    """The targets that the Makefile declares .PHONY: those that a person types."""
    declared = re.findall(r"^\.PHONY:(.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    return frozenset(" ".join(declared).split())


@cache
def problem_with(command: str) -> str | None:
    """Why one simple command cannot be typed in a checkout; None if it can, or is no program of ours."""
    words = shlex.split(command)
    while words and re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    if not words:
        return None
    program, arguments = words[0].removeprefix(".venv/bin/"), words[1:]
    if program == "make":
        unknown = [a for a in arguments if not a.startswith("-") and "=" not in a and a not in make_targets()]
        return f"the Makefile has no target {unknown[0]!r}" if unknown else None
    if program == "wardround":
        if not (BIN / "wardround").exists():
            return "wardround is not installed"
        run = subprocess.run([BIN / "wardround", *arguments, "--help"], capture_output=True, text=True)
        return None if run.returncode == 0 else f"{' '.join(run.stderr.split())}"
    if program in {"python", "python3"}:
        script = next((a for a in arguments if not a.startswith("-")), "")
        return f"there is no {script}" if script.endswith(".py") and not (ROOT / script).is_file() else None
    if program in {"flwr", "pytest"}:
        return None if (BIN / program).exists() else f"{program} is not installed"
    return None


def simple_commands(line: str) -> Iterator[str]:
    """The commands of one shell line, split at pipes and `&&`, without redirections or comments."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words: list[str] = []
    redirected = False
    for word in lexer:
        if set(word) <= set("|&;"):
            yield shlex.join(words)
            words, redirected = [], False
        elif set(word) <= set("<>&"):
            redirected = True
        elif not redirected:
            words.append(word)
    yield shlex.join(words)


def shell_lines(markdown: str) -> Iterator[tuple[int, str]]:
    """What the reader is told to type, with its line number: every `$ ` line of a console block (of a block
    without one, every line), continuation lines joined."""
    block: list[tuple[int, str]] | None = None
    inside = False
    for number, line in enumerate(markdown.splitlines(), start=1):
        if fence := _FENCE.match(line):
            if inside and block:
                prompts = [(n, text[2:]) for n, text in block if text.startswith("$ ")]
                yield from prompts or block
            inside, block = not inside, [] if not inside and fence[1] in _SHELLS else None
        elif block is not None and line.strip():
            if block and block[-1][1].endswith("\\"):
                block[-1] = (block[-1][0], block[-1][1][:-1] + line.strip())
            else:
                block.append((number, line.strip()))


def main(paths: list[str]) -> int:
    checked, problems = 0, []
    for path in paths:
        for number, line in shell_lines(Path(path).read_text()):
            for command in simple_commands(line):
                checked += 1
                if problem := problem_with(command):
                    problems.append(f"{path}:{number}: `{command}`: {problem}")
    if not checked:
        problems.append(f"expected commands in the console blocks of {', '.join(paths)}, got none")
    print("\n".join(problems) or f"{checked} commands in {len(paths)} documents exist")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
