# The commands of the house. `make quickstart` and `make test` need nothing but Python >= 3.11 and a package index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RECIPE ?= recipes/quickstart.yaml
# One held-out picture of the run just made, and a question to it.
LATEST := runs/quickstart/latest

.PHONY: help install quickstart quickstart-next test lint format types contracts check bench gpu gpu-wheels gpu-sanitize clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

$(BIN)/llava-kit: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.dev: $(BIN)/llava-kit
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

install: $(BIN)/llava-kit  ## make the virtual environment and install (run again after adding a package)
	$(BIN)/python -m pip install --quiet --editable .

quickstart: $(BIN)/llava-kit  ## train a tiny model that looks, evaluate it, ask it a question
	$(BIN)/llava-kit train recipes/quickstart.yaml
	$(BIN)/llava-kit chat $(LATEST) --image $(LATEST)/pictures/1.png --ask "How many objects are there?" --ask "What colour is the object in the middle?"

quickstart-next: $(BIN)/llava-kit  ## the same with AnyRes tiles and a Mistral-style language model
	$(BIN)/llava-kit train recipes/quickstart_next.yaml

test: $(VENV)/.dev  ## the whole test suite
	$(BIN)/python -m pytest -n auto

lint: $(VENV)/.dev  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.dev  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.dev  ## pyright
	$(BIN)/pyright --pythonpath $(BIN)/python

contracts: $(VENV)/.dev  ## who may import whom
	$(BIN)/lint-imports

check: lint types contracts test  ## what CI runs before the quick start

bench: $(VENV)/.dev  ## the CPU rows of the scoreboard; results under benchmarks/results/
	$(BIN)/python -m benchmarks.run

# The virtual environment where there is one, else the machine's own Python with its torch.
GPU_PYTHON ?= $(shell test -x $(BIN)/python && echo $(BIN)/python || echo $(PYTHON))

gpu:  ## GPU tests and rows G1-G6 in ten minutes; docs/gpu.md
	$(GPU_PYTHON) benchmarks/gpu/on_gpu.py run $(ROWS)

gpu-wheels: $(VENV)/.dev  ## .wheels/ for a machine with a GPU and no package index
	$(BIN)/python benchmarks/gpu/on_gpu.py wheels

gpu-sanitize:  ## the GPU tests of the kernels under compute-sanitizer: memcheck, then racecheck
	for tool in memcheck racecheck; do \
	  PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $$tool --error-exitcode 9 --target-processes all \
	    $(GPU_PYTHON) -m pytest -m gpu -x tests/kernels || exit; \
	done

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
