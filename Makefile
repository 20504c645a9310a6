# Each target sets up .venv first where that is needed. `make help` lists them.
SHELL := bash
.DEFAULT_GOAL := help

# The Python that .venv is made from: 3.11 if it is here, else whatever is called python3. `make PYTHON=… TARGET` decides.
PYTHON ?= $(shell for name in python3.11 python3; do $$name -c "" 2>/dev/null && echo $$name && break; done)
BIN := .venv/bin
STAMP := .venv/.installed
STORAGE := $(or $(VLTUNE_STORAGE),runs)

# The first three of the test split of the generated pictures: the search has never seen them.
PICTURES := $(foreach number,001 006 008,$(STORAGE)/scenes/val2017/000000000$(number).jpg)

# Whatever the shell says: a search starts a dozen processes, and each would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup quickstart test lint proof bench clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 12

setup: $(STAMP)  ## make .venv and install everything, if it is not there or out of date

$(STAMP): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || { \
	  echo "vltune needs Python 3.11 to 3.13, and '$(PYTHON)' is not that: make PYTHON=/path/to/python3.11 …" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --group dev
	@touch $@

quickstart: $(STAMP)  ## search on generated pictures, promote the best model, caption three pictures with it
	@set -euo pipefail; \
	run=$$($(BIN)/vltune search quickstart --json | $(BIN)/python -c 'import json, sys; print(json.load(sys.stdin)["run"])'); \
	$(BIN)/vltune compare "$$run"; \
	$(BIN)/vltune promote "$$run" --as champion; \
	$(BIN)/vltune predict quickstart@champion $(PICTURES); \
	echo "every trial, with curves and sample captions: $(BIN)/vltune ui, then http://127.0.0.1:5000"

test: lint  ## lint, types, and all tests but the proofs
	$(BIN)/pytest -m "not proof and not integration" -rs -n auto
	$(BIN)/pytest -m "integration and not proof" -rs -n 2 --dist loadfile

lint: $(STAMP)  ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

proof: $(STAMP)  ## the proofs that train for minutes
	$(BIN)/pytest -m "proof and not integration" -rs -n auto --dist loadgroup
	$(BIN)/pytest -m "proof and integration" -rs -n 2 --dist loadfile

bench: $(STAMP)  ## the measurements of benchmarks/
	@set -e; for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python "$$file"; done

clean:  ## remove .venv and caches; runs stay
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
