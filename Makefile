# `make demo` and `make test` need Python 3.10 or newer and a package index, nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Processes of `make test`. The tests of one file stay together: they share fixtures, some of which start Ray. Files keep
# their order, in which those that take longest come early, so that both processes end together.
WORKERS ?= 2
SUPPORTED := 3.10 3.11 3.12 3.13
# Neither Ray nor real data nor minutes.
FAST := tests/config tests/experiment tests/losses tests/metrics tests/search tests/test_public_api.py

.PHONY: demo test test-long test-paper test-versions test-mmseg dist lint docs docs-reference bench gpu soak clean-venv

demo: $(STAMP)  ## A whole search on scenes the package draws; ends with a leaderboard.
	runners/local.sh quickstart

test: $(STAMP)  ## The ordinary tests, twelve minutes on two cores.
	$(BIN)/pytest -m "not long" -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-long: $(STAMP)  ## Searches that are killed and resumed, and other tests of several minutes.
	$(BIN)/pytest -m long

test-paper: $(STAMP)  ## Two training steps of the paper's settings at full size, on drawn images.
	$(BIN)/pytest -m long tests/training/test_paper_spaces.py

test-versions:  ## The fast tests on the oldest and the newest supported Python of this machine, each in .venv-VERSION.
	@set -e; \
	found=""; for v in $(SUPPORTED); do if python$$v -c "import venv" 2>/dev/null; then found="$$found $$v"; fi; done; \
	set -- $$found; oldest=$$1; for newest; do :; done; \
	if [ "$$oldest" = "$$newest" ]; then \
		echo "skipped: needs two Pythons of $(SUPPORTED) on PATH, found:$${found:- none}"; exit 0; \
	fi; \
	for v in $$oldest $$newest; do \
		echo "Python $$v"; \
		test -x .venv-$$v/bin/python || python$$v -m venv .venv-$$v; \
		.venv-$$v/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[samplers]" hypothesis pytest torchmetrics; \
		.venv-$$v/bin/python -m pytest -m "not long" $(FAST); \
	done

# mmcv-lite lacks compiled operators, which none of the networks compared needs.
test-mmseg: $(STAMP)  ## Logits of the paper's networks against mmsegmentation's own, installed in build/mmseg.
	test -d build/mmseg || $(BIN)/python -m pip install --quiet --no-deps --target build/mmseg \
		mmsegmentation==1.2.2 mmcv-lite==2.1.0 mmengine==0.10.7 addict==2.4.0 ftfy opencv-python-headless \
		prettytable regex 'setuptools<81' termcolor terminaltables wcwidth yapf
	BPKD_SEARCH_MMSEG=build/mmseg $(BIN)/pytest tests/models/test_mmsegmentation.py

dist: $(STAMP)  ## A wheel and an sdist in dist/, and the wheel tried in an empty environment (PyTorch and all: 6 GB).
	rm -rf dist build
	$(BIN)/python -m build
	$(PYTHON) -m venv build/empty
	build/empty/bin/python -m pip install --quiet --constraint constraints.txt dist/*.whl
	cd build && empty/bin/bpkd-search validate quickstart

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(STAMP)  ## The documentation as a site in site/; a broken link or a stale page is an error.
	$(BIN)/python docs/generate.py --check
	$(BIN)/mkdocs build --quiet

docs-reference: $(STAMP)  ## Writes the generated pages of docs/ and the notebook again.
	$(BIN)/python docs/generate.py

bench: $(STAMP)  ## Speed as ratios within one run, in quick form; figures go to runs/bench/.
	mkdir -p runs/bench
	$(BIN)/python runners/bench/losses.py --repeats 2 --json runs/bench/losses.json
	$(BIN)/python runners/bench/metrics.py --json runs/bench/metrics.json
	$(BIN)/python runners/bench/views.py --json runs/bench/views.json
	$(BIN)/python runners/bench/step.py --json runs/bench/step.json
	$(BIN)/python runners/bench/search.py --json runs/bench/search.json
	$(BIN)/python runners/bench/stores.py --json runs/bench/stores.json
	$(BIN)/python runners/bench/results.py --trials 1000 --json runs/bench/results.json
	$(BIN)/python runners/bench/report.py --trials 1000 --json runs/bench/report.json
	$(BIN)/python runners/bench/strategies.py ray --trials 50 --json runs/bench/ray.json
	$(BIN)/python runners/bench/strategies.py simulated --trials 300 --json runs/bench/simulated.json
	$(BIN)/python runners/bench/strategies.py warm_start --trials 20 --seeds 2 --json runs/bench/warm_start.json
	$(BIN)/python runners/bench/strategies.py table --trials 64 --seeds 2 --json runs/bench/strategies.json

gpu: $(STAMP)  ## What only a GPU can show, in under nine minutes; figures go to runs/gpu/.
	$(BIN)/python runners/bench/gpu.py --out runs/gpu

soak: $(STAMP)  ## Ten minutes of searches on four Ray nodes of this machine, a process killed every ten seconds.
	mkdir -p runs
	$(BIN)/python runners/bench/soak.py --minutes 10 --out runs/soak-$$(date +%Y%m%d-%H%M%S)

$(STAMP): pyproject.toml setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean-venv:
	rm -rf $(VENV)
