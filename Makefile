# make demo   install, then train a small model with PRIME on the CPU and show that it got better
# make test   install, then run the tests
# make check  what CI runs: format, lint, types, then make test
# Each installs what it needs into .venv, and again only when pyproject.toml has changed.

PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-slow check format clean

demo: .venv/demo.installed
	$(BIN)/credo sft recipes/demo-sft.toml
	$(BIN)/credo train recipes/demo.toml

test: .venv/dev.installed
	$(BIN)/python -m pytest -m "not slow"

test-slow: .venv/slow.installed
	$(BIN)/python -m pytest -m slow

check: .venv/dev.installed
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/pyright
	$(MAKE) --no-print-directory test

format: .venv/dev.installed
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format --quiet .

.venv/demo.installed: pyproject.toml | .venv/bin/python
	$(INSTALL) -e ".[gym]"
	@touch $@

.venv/dev.installed: pyproject.toml | .venv/bin/python
	$(INSTALL) -e ".[gym,code,dev]"
	@touch $@

.venv/slow.installed: pyproject.toml | .venv/bin/python
	$(INSTALL) -e ".[gym,code,dev,smollm2]"
	@touch $@

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "credo needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "On Debian and Ubuntu: apt install python3-venv"; exit 1; }

clean:
	rm -rf .venv runs build dist .pytest_cache .ruff_cache
