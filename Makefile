# Every target sets up what it needs in .venv, with pip and nothing else. A second run finds the stamps and starts at once.

PYTHON ?= python3
PYTEST_ARGS ?=
PYTEST_WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PYTHON_SOURCES = $(wildcard src tests recipes benchmarks)

.DEFAULT_GOAL := help
.PHONY: help demo test check eval-smoke format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.stamp-runtime ## speak examples/hello.txt into conversation.wav
	$(BIN)/duologue converse examples/hello.txt -o conversation.wav

test: $(VENV)/.stamp-dev ## run the default tests (offline, on a CPU); PYTEST_ARGS='-m slow' for others, PYTEST_WORKERS for more at once
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile $(PYTEST_ARGS)

check: $(VENV)/.stamp-dev ## lint, format, types and import layering
	$(BIN)/ruff check $(PYTHON_SOURCES)
	$(BIN)/ruff format --check $(PYTHON_SOURCES)
	$(BIN)/mypy --strict src recipes benchmarks
	$(BIN)/python -m pytest tests/test_layering.py

eval-smoke: $(VENV)/.stamp-dev ## score the bundled model on a short list, and compare with its model card
	$(BIN)/python -m recipes.parlor.gate

format: $(VENV)/.stamp-dev ## put the sources into the house format
	$(BIN)/ruff check --fix $(PYTHON_SOURCES)
	$(BIN)/ruff format $(PYTHON_SOURCES)

clean: ## remove caches and build output; .venv stays
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(PYTHON_SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.stamp-torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Duologue needs Python 3.11 or later; name one with: make PYTHON=python3.11 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing torch into $(VENV) ..."
	@# First and alone, at its exact version: a looser requirement may be met by a build that brings gigabytes of CUDA.
	@$(PIP_INSTALL) $$(grep '^torch==' constraints.txt)
	@touch $@

$(VENV)/.stamp-runtime: $(VENV)/.stamp-torch pyproject.toml
	@echo "Installing duologue into $(VENV) ..."
	@$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-torch pyproject.toml
	@echo "Installing duologue and what its tests need into $(VENV) ..."
	@$(PIP_INSTALL) -e '.[dev]'
	@$(PIP_INSTALL) --no-deps moshi
	@touch $(VENV)/.stamp-runtime $@
