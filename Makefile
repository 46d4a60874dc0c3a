# Every target does its own set-up: `make demo` and `make test` work on a fresh clone.
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin
.DEFAULT_GOAL := help
.PHONY: help demo test check bench proto lock clean

help:  ## what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

# Each stamp depends on its lock, so a changed lock reinstalls and nothing else does.
$(VENV)/.stamp-run: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Freshet needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.stamp-dev: requirements-dev.lock $(VENV)/.stamp-run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	touch $@

demo: $(VENV)/.stamp-run  ## the whole loop with simulated users, learning shown live
	$(BIN)/freshet demo $(ARGS)

# Tests of processes and brokers wait more than they compute, so two run at a time. What both would compile on a new
# machine, each for itself, is compiled before.
test: $(VENV)/.stamp-dev  ## the whole test suite
	$(BIN)/python -m tests.compile_once
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

check: $(VENV)/.stamp-dev  ## lint, types, generated code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.stamp-dev  ## measure what docs/benchmarks.md claims
	$(BIN)/python -m benchmarks $(ARGS)

proto: $(VENV)/.stamp-dev  ## regenerate the protobuf modules
	$(BIN)/python -m protos.generate

lock:  ## resolve the pinned, hashed requirement files anew (needs uv)
	uv pip compile --quiet --universal --no-emit-index-url --generate-hashes --group build pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --no-emit-index-url --generate-hashes --group dev pyproject.toml -c requirements.lock -o requirements-dev.lock

clean:  ## remove what the targets made
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
