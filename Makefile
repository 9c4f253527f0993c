# The index of commands. `make demo` and `make test` work on a fresh machine with Python >= 3.11.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test test-slow chaos two-hosts screenshots autoscaling check golden clean

.venv: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -e '.[dev]'
	@touch .venv

demo: .venv            ## search the embedded data set, about five minutes on 2 cores
	$(BIN)/python -m cid_ray.tune

test: .venv            ## what CI runs; CID_RAY_DATA=DIR adds the tests on real data
	$(BIN)/python -m pytest

test-slow: .venv       ## tests of several minutes
	$(BIN)/python -m pytest -m slow

chaos: .venv           ## kill -9 at random moments, many times: nothing lost, nothing twice, the same decisions
	$(BIN)/python -m benchmarks.chaos

two-hosts: .venv       ## training over a real link between two network namespaces, cut in the middle; needs root
	$(BIN)/python -m tests.two_hosts

screenshots: .venv     ## README's two pictures, of a search at work and of a kept run; needs chromium
	$(BIN)/python -m tests.screenshots

autoscaling: .venv     ## Ray's own autoscaler under a search: nodes come and go, one is taken away in the middle
	$(BIN)/python -m pytest -m slow tests/test_autoscaling.py

check: .venv           ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

golden: .venv          ## rewrite the golden losses after a deliberate change of the method
	$(BIN)/python -m tests.core.test_golden

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache build *.egg-info
