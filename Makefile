# What a checkout can do. Each target sets up what it needs first: system packages, then .venv.
#
#   make demo        mount a made-up organization and look around; no account, no key
#   make check       ruff, mypy, import-linter
#   make test        the tests, but for the long ones
#   make test-long   the long ones
#   make docs        write docs/reference.md and docs/standin.md anew
#   make screens     take the pictures of README.md anew
#   make bench       measure against the vendor's SDK, rclone and the local disk
#   make clean       remove what these targets made
#
# PYTHON=python3.12 chooses another Python than python3 (3.11 or newer).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input

.PHONY: help demo check test test-long docs screens bench clean
help:
	@sed -n '/^#   make/s/^#   //p' Makefile

# A stamp says that the environment was filled for this pyproject.toml: for use, or for the tests too.
$(VENV)/runtime: pyproject.toml .ci/packages
	@.ci/packages runtime "$(PYTHON)"
	@.ci/venv "$(PYTHON)" $(VENV)
	@echo "installing pictofs into $(VENV)"
	@$(PIP) install --editable '.[demo]'
	@touch $@

$(VENV)/tests: pyproject.toml .ci/packages
	@.ci/packages tests "$(PYTHON)"
	@.ci/venv "$(PYTHON)" $(VENV)
	@echo "installing pictofs and what its tests need into $(VENV); torch is large, give it minutes"
	@$(PIP) install --editable '.[cluster,demo,dev,torch]'
	@touch $(VENV)/runtime $@

demo: $(VENV)/runtime
	@$(BIN)/pictofs demo

check: $(VENV)/tests
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# Four at once: most tests wait for a mount or a server most of their time. The tests of a file share what they make,
# and tests/conftest.py says which files come first.
test: $(VENV)/tests
	$(BIN)/pytest -m "not long" -n 4 --dist loadfile --no-loadscope-reorder $(ARGS)

test-long: $(VENV)/tests
	$(BIN)/pytest -m long $(ARGS)

docs: $(VENV)/runtime
	@$(BIN)/python docs/reference.py
	@$(BIN)/python docs/standin.py

screens: $(VENV)/tests
	@$(BIN)/python -P docs/screens.py

bench: $(VENV)/tests
	$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
