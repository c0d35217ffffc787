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

bench: $(STAMP)  ## Speed as ratios within one run, in quick form; figures go to runs/bench/.
	mkdir -p runs/bench
	$(BIN)/python runners/bench/losses.py --repeats 2 --json runs/bench/losses.json
	$(BIN)/python runners/bench/metrics.py --json runs/bench/metrics.json
	$(BIN)/python runners/bench/views.py --json runs/bench/views.json
	$(BIN)/python runners/bench/step.py --json runs/bench/step.json
	$(BIN)/python runners/bench/search.py --json runs/bench/search.json
	$(BIN)/python runners/bench/results.py --trials 1000 --json runs/bench/results.json
	$(BIN)/python runners/bench/report.py --trials 1000 --json runs/bench/report.json
	$(BIN)/python runners/bench/strategies.py ray --trials 50 --json runs/bench/ray.json
	$(BIN)/python runners/bench/strategies.py simulated --trials 300 --json runs/bench/simulated.json
	$(BIN)/python runners/bench/strategies.py table --trials 64 --seeds 2 --json runs/bench/strategies.json

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean-venv:
	rm -rf $(VENV)
