"""`pytest --outcomes FILE` writes which tests ran and how they ended; tools/check_acceptance.py reads it."""

import json
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("wardround", deadline=None)  # a loaded machine is no bug
settings.load_profile("wardround")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--outcomes", metavar="FILE", type=Path, help="write the outcome of every test as JSON")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--outcomes") is not None:
        config.pluginmanager.register(OutcomeRecorder(config), "outcome-recorder")


class OutcomeRecorder:
    """The worst of each test's three phases, by node id."""

    def __init__(self, config: pytest.Config) -> None:
        self._file: Path = config.getoption("--outcomes")
        self._outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        outcome = "xfailed" if report.skipped and hasattr(report, "wasxfail") else report.outcome
        if report.when == "setup" or outcome != "passed":
            self._outcomes[report.nodeid] = outcome

    def pytest_sessionfinish(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(json.dumps(self._outcomes, indent=0, sort_keys=True))
