# make app     set everything up and serve RenalCore on this machine
# make test    set everything up and run the tests
# make check   style, types and the rules about who imports whom
#
# VENV=DIR keeps the virtual environment elsewhere, PYTHON=python3.12 chooses the interpreter, ADDRESS=0.0.0.0 lets
# other machines reach the app, TESTS="tests/db -k audit" runs some tests only.

# The first of these that starts (pyenv leaves names behind that do not) and is new enough.
PYTHON  ?= $(shell for p in python3.12 python3.11 python3.13 python3; do \
             $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV    ?= .venv
ADDRESS ?= localhost
PORT    ?= 8501
TESTS   ?= tests

BIN := $(VENV)/bin
SOURCES := requirements.txt pyproject.toml

.DEFAULT_GOAL := help
.PHONY: help app setup serve test check

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

app: setup serve

# What a new release or a new machine needs before anything can be served; changes nothing the second time.
setup: $(VENV)/.for-app
	$(BIN)/python -m db upgrade

# An installation without an administrator prints a one-time link for the first one.
serve:
	RENAL_PUBLIC_URL="$${RENAL_PUBLIC_URL:-http://localhost:$(PORT)}" $(BIN)/streamlit run app.py --server.address $(ADDRESS) --server.port $(PORT)

test: $(VENV)/.for-dev
	$(BIN)/python -m pytest $(TESTS)

check: $(VENV)/.for-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_import_rules.py

# An empty file remembers that the environment holds what the requirements ask for; newer requirements install again.
$(VENV)/.for-app: $(SOURCES) | $(BIN)/python
	@echo "Installing what requirements.txt names into $(VENV): minutes and 7 GB the first time."
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.for-dev: $(SOURCES) | $(BIN)/python
	@echo "Installing what requirements.txt and the tests need into $(VENV): minutes and 7 GB the first time."
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@ $(VENV)/.for-app

$(BIN)/python:
	@test -n "$(PYTHON)" || { \
	  echo "RenalCore needs Python 3.11 or newer; here is $$(python3 --version 2>&1 || echo none)." >&2; \
	  echo "Install a newer one, then: make PYTHON=/path/to/python3.12 app" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "RenalCore needs Python 3.11 or newer; $(PYTHON) is not." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
