# make simulate   ten simulated hospitals train on the breast-cancer data; the report lands in runs/
# make federation a server and three hospitals on this machine, as separate programs; what they make lands in runs/
# make test       everything that CI checks         make lint    style and types only
# make bench      speed, beside other frameworks    make clean   remove all but your runs
#
# Each target sets up .venv from constraints.txt the first time, and again when constraints.txt or
# pyproject.toml has changed. pip's own settings (pip.conf, PIP_* variables) decide where packages come from.
# For another Python: make clean, then make simulate PYTHON=python3.12.

PYTHON ?= python3
PLAN ?= breast-cancer
OUT ?=
# NETWORK=--network gives each party a network of its own; that needs root.
NETWORK ?=
PYTEST_ARGS ?=
BENCHMARKS ?= simulation robust robust_memory privacy secure_noise skellam secagg_primitives secagg link federation audit validation he he_simulation inference

BIN := .venv/bin
KEY := $(shell { pwd; cat constraints.txt pyproject.toml hatch_build.py; } | cksum | tr ' ' '-')
DEV := .venv/ready-dev-$(KEY)
# What runs simulations; the environment for tests contains it.
RUN := $(firstword $(wildcard $(DEV)) .venv/ready-simulation-$(KEY))
PLAY := $(firstword $(wildcard $(DEV)) .venv/ready-federation-$(KEY))

.PHONY: help simulate federation test lint bench clean

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

simulate: $(RUN)
	@$(BIN)/wardround simulate $(PLAN) $(if $(OUT),--out "$(OUT)")

federation: $(PLAY)
	@$(BIN)/python examples/federation/play.py $(or $(OUT),runs/federation-$(shell date +%Y%m%d-%H%M%S)) $(NETWORK)

lint: $(DEV)
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy
	$(BIN)/python -m mypy hatch_build.py tools/*.py

test: lint
	$(BIN)/python tools/check_wheel.py
	@mkdir -p .build
	$(BIN)/python -m pytest --outcomes=.build/outcomes.json --cov --cov-report=term $(PYTEST_ARGS)
	$(BIN)/python tools/check_acceptance.py --outcomes .build/outcomes.json
	$(BIN)/python tools/check_commands.py README.md docs/*.md

bench: $(DEV)
	@failed=0; for name in $(BENCHMARKS); do \
	  echo "benchmarks/$$name.py"; $(BIN)/python benchmarks/$$name.py || failed=1; done; exit $$failed

clean:
	rm -rf .venv .build .dev build dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -rf wardround/server wardround/client wardround/strategies wardround/simulations benchmarks/.venv-*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One virtual environment; the name of the stamp carries the checksum of what it was made from. The build
# backend is installed beside the rest, so that its version is pinned as well.
.venv/ready-%-$(KEY):
	@$(BIN)/python -c '' 2>/dev/null || { \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	    { echo "wardround needs Python 3.11 or newer; $(PYTHON) is" \
	      "$$($(PYTHON) --version 2>&1 | head -n 1). Try: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }; \
	  $(PYTHON) -m venv --clear .venv; }
	@rm -f .venv/ready-*
	@echo "setting up .venv for $* (the first time takes some minutes)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt hatchling
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt \
	  --no-build-isolation --editable '.[$*]'
# The oracle of the aggregation rules; its dependencies are gigabytes that the tests do not need.
	@case $* in dev) $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt --no-deps byzfl;; esac
	@touch $@
