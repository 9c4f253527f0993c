# The index of commands. `make demo` and `make test` work on a fresh machine with Python >= 3.11.
PYTHON ?= python3
BIN = .venv/bin
LOWEST = .venv-lowest
SEED := $(shell od -An -N3 -tu4 /dev/urandom | tr -d " ")

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-slow test-gpu test-lowest check format golden fuzz chaos two-hosts \
	autoscaling slurm screenshots clean

help:                  ## print this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */\1|/' | \
		awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'

.venv: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -e '.[dev]'
	@touch .venv

demo: .venv            ## search the generated data set, about six minutes on 2 cores
	$(BIN)/python -m cid_ray.tune

test: .venv            ## the tests of CI; CID_RAY_DATA=DIR adds those on real data
	$(BIN)/python -m pytest -n 3 --dist loadgroup

test-fast: .venv       ## tests without Ray and without child processes, under two minutes
	$(BIN)/python -m pytest -n auto --dist loadfile \
		-m 'not slow and not gpu and not ray and not process'

test-slow: .venv       ## tests of several minutes
	$(BIN)/python -m pytest -m slow

test-gpu: .venv        ## tests of the CUDA path; needs one GPU
	$(BIN)/python -m pytest -m gpu

test-lowest:           ## the tests with the lowest versions that pyproject.toml allows
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install -q -e '.[dev]' -c constraints/lowest.txt
	$(LOWEST)/bin/python -m pytest -n 3 --dist loadgroup

check: .venv           ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv          ## rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

golden: .venv          ## rewrite the golden losses after a deliberate change of the method
	$(BIN)/python -m tests.core.test_golden

fuzz: .venv            ## damaged files for every reader, 10,000 each; SEED=N repeats a run
	@echo "SEED=$(SEED)"
	FUZZ_EXAMPLES=10000 $(BIN)/python -m pytest tests/fuzz --timeout=14400 \
		--hypothesis-seed=$(SEED) --hypothesis-show-statistics

chaos: .venv           ## kill a search at random moments, many times; it must lose nothing
	$(BIN)/python -m benchmarks.chaos

two-hosts: .venv       ## train over a link between two network namespaces and cut it; needs root
	$(BIN)/python -m benchmarks.two_hosts

autoscaling: .venv     ## a search on Ray's autoscaler: nodes are added, removed and lost
	$(BIN)/python -m pytest -m slow tests/test_autoscaling.py

slurm: .venv           ## a search on a real Slurm of two nodes, requeued in the middle; needs root
	$(BIN)/python -m pytest -m slow tests/test_slurm.py

screenshots: .venv     ## the screenshots of the docs, of real runs; needs chromium
	$(BIN)/python -m benchmarks.screenshots

clean:                 ## remove environments and caches
	rm -rf .venv $(LOWEST) .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info
