# What can be done here: `make help`. Needs python3 (3.11 or newer) with venv, and make; everything else goes to .venv.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BENCH ?= local_throughput latency pipeline admission scale polling footprint budget
JOBS ?= examples/archive.yaml examples/monte_carlo.yaml
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export JOBMILL_STATE ?= $(CURDIR)/$(VENV)/state

.DEFAULT_GOAL := help
.PHONY: help run test check format servers bench chaos clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.installed ## Run real examples on the embedded server and show what came of them (JOBS="my.yaml")
	$(BIN)/jobmill run $(JOBS)
ifeq ($(origin JOBS),file)
	$(BIN)/jobmill run examples/fails.yaml || test $$? -eq 1 # this one fails on purpose: exit code 1
endif

test: $(VENV)/.developed servers ## Provide the test servers and run all tests, by three processes (ARGS="-k name")
	$(BIN)/python -m pytest --cache-clear -n 3 --dist loadfile --no-loadscope-reorder $(ARGS) || $(BIN)/python tests/alone.py

check: $(VENV)/.developed ## Lint, formatting, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --config setup.cfg

format: $(VENV)/.developed ## Put the code into the one format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

servers: $(VENV)/.developed ## Provide Valkey, Redis, docker, podman, Slurm, Grid Engine and mpirun for the tests
	@$(BIN)/python tests/servers.py
	@$(BIN)/python tests/engines.py
	@$(BIN)/python tests/slurm_farm.py
	@$(BIN)/python tests/grid_farm.py
	@$(BIN)/python tests/slurm_torque.py
	@$(BIN)/python tests/mpi_ranks.py

bench: $(VENV)/.installed ## Measure all that docs/performance.md shows, long (BENCH=latency ARGS="--jobs 50")
	@set -o pipefail; mkdir -p docs/performance; for name in $(BENCH); do \
	  echo "benchmarks/$$name.py $(ARGS)"; result=docs/performance/$$name.json; \
	  $(BIN)/python benchmarks/$$name.py $(ARGS) | tee >(cat >&2) | tail -n 1 > $$result.new || \
	    { rm -f $$result.new; exit 1; }; \
	  mv $$result.new $$result; \
	done
	$(BIN)/python -m benchmarks.report

chaos: $(VENV)/.developed servers ## Break the pipeline for half an hour, judge what it tells its users (ARGS="--rounds 2 --nemesis kill-starter")
ifeq ($(origin ARGS),undefined)
	$(BIN)/python -m tests.chaos --jobs 500 --faults 60 --rounds 10
	$(BIN)/python -m tests.chaos --jobs 400 --faults 50 --rounds 5 --system fake
else
	$(BIN)/python -m tests.chaos $(ARGS)
endif

clean: ## Remove what make made
	rm -rf $(VENV) .servers .peers build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/.venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "jobmill needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V 2>&1); try: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "$(PYTHON) has no venv; as root: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.venv setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.developed: $(VENV)/.venv setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[test,dev]'
	@touch $@ $(VENV)/.installed
