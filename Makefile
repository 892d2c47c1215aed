# Every target makes its own environment in .venv first; only Python 3.10-3.13 and pip are needed.
# `make` alone lists the targets.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
JOBS   ?= 2

# Intel Extension for PyTorch can be imported with torch 2.8 alone, and all else is tested with a newer one.
IPEX_VENV  ?= .venv-ipex
IPEX_READY := $(IPEX_VENV)/.ready

# The libraries that the benchmarks compare with need versions of their own (6 GB, with torchvision's torch).
PEERS       ?= .venv-peers
PEERS_READY := $(PEERS)/.ready

# One thread a process: the tests run in JOBS processes, and threads would fight for the cores.
PYTEST := OMP_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1 TF_CPP_MIN_LOG_LEVEL=2 $(BIN)/python -m pytest
SUDO   := $(if $(filter 0,$(shell id -u)),,sudo)

.DEFAULT_GOAL := help
.PHONY: help demo test test-system test-ipex fashion-mnist postgresql chromium lint types examples docs bench results soak check clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[torch,tensorflow-cpu,report,dev]'
	@touch $@

demo: $(READY) ## teacher, student alone and student distilled on digits: a table and a plot
	$(BIN)/kdhooks demo

test: $(READY) ## the tests that need pip only
	$(PYTEST) -n $(JOBS) --durations=20 tests/core tests/torch tests/tf tests/contract tests/docs

fashion-mnist: ## install Debian's dataset-fashion-mnist where it is missing
	@dpkg -s dataset-fashion-mnist >/dev/null 2>&1 || \
	    { $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq dataset-fashion-mnist; }

postgresql: ## install Debian's postgresql where it is missing
	@dpkg -s postgresql >/dev/null 2>&1 || \
	    { $(SUDO) apt-get update -qq && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql; }

chromium: ## install Debian's chromium where it is missing
	@dpkg -s chromium >/dev/null 2>&1 || \
	    { $(SUDO) apt-get update -qq && \
	    $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; }

test-system: $(READY) fashion-mnist postgresql chromium ## the tests that need packages of Debian's (installed when they are missing)
	$(PYTEST) -n $(JOBS) tests/system

$(IPEX_READY): constraints-ipex.txt
	$(PYTHON) -m venv $(IPEX_VENV)
	$(IPEX_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps -r $<
	@touch $@

test-ipex: $(IPEX_READY) ## the tests of Intel Extension for PyTorch, in an environment of their own (6 GB; AVX-512)
	OMP_NUM_THREADS=1 TORCH_CPP_LOG_LEVEL=ERROR $(IPEX_VENV)/bin/python -m pytest --durations=3 tests/ipex

lint: $(READY) ## ruff and the import rules between rooms
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(READY) ## mypy, strict
	$(BIN)/mypy

examples: $(READY) fashion-mnist ## every example with its small settings (--quick)
	$(PYTEST) -n $(JOBS) --durations=0 tests/examples

docs: $(READY) ## the documentation as a site, in build/site, every link checked (its code blocks run in `make test`)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

$(PEERS_READY): benchmarks/requirements-peers.txt
	@$(PYTHON) -m venv $(PEERS) && \
	    $(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r $< && \
	    $(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e . || \
	    { echo "make bench: $(PEERS) is not complete: benchmarks/requirements-peers.txt needs a package registry," \
	    "or its packages on disk (PIP_FIND_LINKS)"; exit 1; }
	@touch $@

bench: $(READY) $(PEERS_READY) fashion-mnist ## what a step and a whole run cost, beside other libraries (long; BENCH='--only ...')
	$(BIN)/python -m benchmarks --peers $(PEERS)/bin/python $(BENCH)

results: $(READY) fashion-mnist ## the tables of docs/results.md (long)
	$(BIN)/python -m benchmarks.results

soak: $(READY) ## the long runs that the other targets leave out
	$(PYTEST) --timeout=0 -m soak tests

check: ## the gate of continuous integration, in its order, with the time of each step
	@for step in lint types docs test test-system test-ipex examples; do \
	    if [ $$step = test-ipex ] && ! grep -qs avx512 /proc/cpuinfo; then \
	        echo "== make $$step: left out, since Intel Extension for PyTorch needs a processor with AVX-512"; continue; \
	    fi; \
	    echo "== make $$step"; begin=$$(date +%s); \
	    $(MAKE) --no-print-directory $$step || { echo "== make $$step: FAILED"; exit 1; }; \
	    echo "== make $$step: $$(( $$(date +%s) - begin )) s"; \
	done

clean: ## remove the environment, caches and what building leaves
	rm -rf .venv $(IPEX_VENV) $(PEERS) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
