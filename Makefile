# `make demo` and `make test` need Python 3.10 or newer and a package index, nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-long lint bench clean-venv

demo: $(STAMP)  ## A whole search on scenes the package draws; ends with a leaderboard.
	runners/local.sh search_spaces/quickstart.yaml

test: $(STAMP)  ## The ordinary tests, under 10 minutes on two cores.
	$(BIN)/pytest -m "not long"

test-long: $(STAMP)  ## Searches that are killed and resumed, and other tests of several minutes.
	$(BIN)/pytest -m long

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)  ## Speed as ratios within one run.
	$(BIN)/python runners/bench/losses.py
	$(BIN)/python runners/bench/metrics.py

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean-venv:
	rm -rf $(VENV)
