# make setup   an own virtual environment in .venv with the package in it; a second call installs nothing
# make demo    train the shipped tiny model to correct itself on countdown, then print before and after
# make test    format, lint, types, tests
# make lint    the first three of them

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: setup demo test lint

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
	$(BIN)/mypy recipes/functions-base

test: lint
	$(BIN)/pytest
