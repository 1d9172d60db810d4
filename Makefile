# make run: everything from nothing, then the studio in a browser, at STUDIO_HOST and STUDIO_PORT (or make run PORT=...).
# make test: the same, then the tests. make ci: what continuous integration asks for, tests and checks.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Files of tests over the cores, in the order and number of processes that tests/conftest.py says.
SPREAD := -n auto --dist loadfile --no-loadscope-reorder

.PHONY: run setup setup-dev ci check test test-all format messages bench models clean

run: setup
	$(BIN)/python -m studio.interfaces.web.start $(if $(PORT),--server.port $(PORT))

setup: $(VENV)/.run
setup-dev: $(VENV)/.dev

$(VENV)/.python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	touch $@

# requirements.lock is a constraints file: the tested versions, and nothing that isn't asked for.
$(VENV)/.run: $(VENV)/.python requirements.txt requirements.lock
	$(BIN)/pip install --disable-pip-version-check -q -r requirements.txt -c requirements.lock
	touch $@

$(VENV)/.dev: $(VENV)/.run pyproject.toml
	$(BIN)/pip install --disable-pip-version-check -q -e '.[dev]' -c requirements.lock
	touch $@

ci: check test

check: setup-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

test: setup-dev
	$(BIN)/python -m pytest -q $(SPREAD)

test-all: setup-dev
	$(BIN)/python -m pytest -q -m "not gpu"

format: setup-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# New sentences into the catalogue of each language (studio/locale), without a translation
messages: setup-dev
	PYTHONPATH=.:tests $(BIN)/python -m support.messages

bench: setup-dev
	$(BIN)/python -m studio bench

models: setup-dev
	$(BIN)/python -m studio.pretraining.build

clean:
	rm -rf $(VENV)
