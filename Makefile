# One verb per habit. A fresh machine needs Python 3.11+ and make; everything else is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/genac

.PHONY: help setup demo demo-llm test test-slow test-gpu vllm-env tinker-env verl-env lint types check compare results bench bench-gpu docs screenshot clean

help:            ## print this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/ -/'

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch .venv/ready .venv/demo-ready .venv/demo-llm-ready

# The package and its viewer; `make setup` adds the tools.
.venv/demo-ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ui]'
	touch .venv/demo-ready

# And what reads the model of demo-llm.
.venv/demo-llm-ready: .venv/demo-ready
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[gguf]'
	touch .venv/demo-llm-ready

setup: .venv/ready   ## make the virtual environment, with everything

demo: .venv/demo-ready  ## all stages on the default task, on two CPU cores
	$(RUN) train recipes/arithmetic.yaml

# LLM holds further keys, as for genac train: make demo-llm LLM='--seed 1 --output_dir runs/llm-1'
demo-llm: .venv/demo-llm-ready  ## all stages on word problems in English, with SmolLM2-135M; on two CPU cores
	$(BIN)/python examples/demo_llm.py $(LLM)

# Two processes of one thread each finish in half the time that one process with two threads takes.
test: setup      ## the default test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

test-slow: setup ## the tests marked slow
	$(BIN)/python -m pytest -q -m 'slow and not gpu'

# Much of the time on a GPU goes into compiling kernels, one core each.
test-gpu: setup  ## the tests marked gpu; needs a GPU
	$(BIN)/python -m pytest -q -m gpu -n 4

# SkyRL's pins differ from ours; SKYRL names the folder, as GENAC_SKYRL does for the test.
SKYRL ?= $(or $(GENAC_SKYRL),.skyrl)
tinker-env:      ## SkyRL's Tinker server (JAX, CPU) in .skyrl, for its slow test
	PYTHON=$(PYTHON) bash tests/support/skyrl_env.sh $(SKYRL)

# verl needs Ray, TransferQueue and an older transformers; GENAC_VERL names the folder for the tests too.
verl-env:        ## verl and inspect_ai (CPU) in .verl-env, for their slow tests
	PYTHON=$(PYTHON) bash tests/support/verl_env.sh $(or $(GENAC_VERL),.verl-env)

lint: setup      ## ruff: format and rules, changing nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup     ## pyright on genac and paper
	$(BIN)/pyright

check: lint types test  ## what CI runs

compare: setup   ## every algorithm on the default task, tuned; the table is in docs/results
	$(BIN)/python -m paper recipes/paper/compare.yaml

# The order matters: the regime is chosen before methods are compared in it.
results: setup   ## every experiment of docs/results; hours on two CPU cores
	for name in regime approximation stage2 length frontier transfer downstream downstream-fresh downstream-parts downstream-long representation ablation compute; do \
	  $(BIN)/python -m paper recipes/paper/$$name.yaml || exit 1; done

bench: setup     ## rough figures of every benchmark
	for name in engine critic step grpo_step scale view memory service; do $(BIN)/python bench/$$name.py --quick || exit 1; done

bench-gpu: setup ## the tests marked gpu and every benchmark, into gpu.json (VLLM=PYTHON: vLLM too); needs a GPU
	$(BIN)/python bench/gpu.py --json gpu.json $(if $(VLLM),--vllm-python $(VLLM))

vllm-env:        ## an environment with vLLM's CPU build in .vllm-env (FOLDER names another); 2.3 GB
	$(PYTHON) bench/vllm_env.py $(or $(FOLDER),.vllm-env)

docs: setup      ## the documentation as a site in site/, readable without a network
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/python tools/reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

screenshot: setup ## the README's picture of the viewer; SHOT=RUN names the run
	$(BIN)/python bench/screenshot.py $(or $(SHOT),runs/arithmetic)

clean:           ## remove the environments, the site and all runs
	rm -rf .venv .vllm-env .verl-env .skyrl runs site
