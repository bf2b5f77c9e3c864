# Every target makes its own environment: Python 3.11+ and make are all a machine needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# uv reads the same certificates, indexes and wheels as pip on machines that set them for pip.
UV := $(BIN)/python -m uv

.DEFAULT_GOAL := help
.PHONY: help demo test test-long test-kernels test-hosts coverage lint docs format bench bench-gpu lock lock-lowest clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(VENV)/.ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"itpn_ray needs Python 3.11, 3.12 or 3.13, this is {v[0]}.{v[1]}: run make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	# Compiled once, not by each of the many processes that Ray starts: they begin twice as fast.
	$(UV) pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes --requirement requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

demo: $(VENV)/.ready ## images -> prepare -> pretrain -> finetune -> tune -> detect -> submit -> report
	$(BIN)/itpn-ray demo

test: $(VENV)/.ready ## the tests that need one process: under ten minutes on two cores
	$(BIN)/python -m pytest -n auto --dist worksteal

LONG = (workers or programs or benchmarks) and not slow
test-long: $(VENV)/.ready ## those under Ray, of several workers, of exported and compiled networks, of benchmarks
	$(BIN)/python -m pytest -n auto --dist worksteal -m "$(LONG)"

test-hosts: $(VENV)/.ready ## the tests on several machines, where namespaces can be made: ten minutes
	$(BIN)/python -m pytest -n 0 -m hosts tests/hosts

# Sums in another order, as on a processor without AVX: a test must not hang on the last bits.
test-kernels: $(VENV)/.ready ## the tests that depend on rounding, with other kernels
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/python -m pytest -m "rounding and not slow" tests/models tests/tasks tests/training

# Lines that only Ray's workers run are not counted: coverage does not follow processes that Ray starts.
coverage: $(VENV)/.ready ## the test suite, and which lines it runs
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow" --cov=itpn_ray --cov=jobs --cov-report=term:skip-covered --cov-report=xml

lint: $(VENV)/.ready ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Not --quiet, which leaves --strict no warning to count. The variable silences a theme's banner.
docs: $(VENV)/.ready ## the documentation, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: $(VENV)/.ready ## format the sources
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.ready ## the benchmarks that need neither a GPU nor data of yours, in small
	for script in $$(grep -l '"--quick"' benchmarks/*.py); do $(BIN)/python $$script --quick || exit 1; done

bench-gpu: $(VENV)/.ready ## what one GPU gives: correctness, speed, bars (docs/benchmarks/gpu.md)
	$(BIN)/python -m benchmarks.gpu

lock: $(VENV)/.ready ## recompile requirements.lock from pyproject.toml
	$(UV) pip compile pyproject.toml --extra dev --extra docs --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet --output-file requirements.lock

lock-lowest: ## lock the lowest versions that pyproject.toml allows, to test them
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(UV) pip compile pyproject.toml --extra dev --extra docs --python $(BIN)/python --resolution lowest-direct --generate-hashes --no-emit-index-url --no-header --quiet --output-file requirements.lock

clean: ## remove the environment and the outputs
	rm -rf $(VENV) out
