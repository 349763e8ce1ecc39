# One verb per habit. A fresh machine needs Python 3.11+ and make; everything else is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/genac

.PHONY: help setup demo test test-slow test-gpu lint types check compare results bench bench-gpu screenshot clean

help:            ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/ -/'

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch .venv/ready

setup: .venv/ready   ## virtual environment with everything

demo: setup      ## all three stages on the default task, two CPU cores, under ten minutes
	$(RUN) train recipes/arithmetic.yaml

# Two processes of one thread each finish in half the time that one process with two threads takes.
test: setup      ## the default test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

test-slow: setup ## the slow tests as well
	$(BIN)/python -m pytest -q -m 'slow and not gpu'

# Much of the time on a GPU goes into compiling kernels, one core each.
test-gpu: setup  ## the tests that need a GPU
	$(BIN)/python -m pytest -q -m gpu -n 4

lint: setup      ## ruff: format and rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup     ## pyright
	$(BIN)/pyright

check: lint types test  ## what CI runs

compare: setup   ## every algorithm on the default task, three seeds, the table in docs/results
	$(RUN) compare recipes/compare-arithmetic.yaml

# The order matters: the regime is chosen before methods are compared in it.
results: setup   ## every experiment of docs/results; hours on two CPU cores
	for name in regime approximation sizes icc downstream downstream-fresh downstream-parts downstream-long downstream-gate representation ablation compute; do \
	  $(RUN) paper recipes/paper/$$name.yaml || exit 1; done

bench: setup     ## speed: rough figures of every benchmark
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	for name in engine critic step trl scale view memory; do $(BIN)/python bench/$$name.py --quick || exit 1; done

bench-gpu: setup ## the tests that need a GPU and every benchmark on it, into gpu.json
	$(BIN)/python bench/gpu.py --json gpu.json

screenshot: setup ## the README's picture of the viewer; SHOT=RUN names the run
	$(BIN)/python bench/screenshot.py $(or $(SHOT),runs/arithmetic)

clean:           ## remove the environment and all runs
	rm -rf .venv runs
