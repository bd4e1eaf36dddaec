# One environment in .venv, from locks. `make setup` takes what users need; the targets for developers add what only tests need.
PYTHON  ?= python3
UV      ?= $(shell command -v uv)
DATASET ?= digits
DATA_DIR ?=
ARGS    ?=

BIN   := .venv/bin
STAMP := .venv/.installed
TESTS := .venv/.tests
PYTEST = $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal

LOCKS   := workbench/deployment/locks
INSTALL := $(if $(UV),$(UV) pip install --quiet --python $(BIN)/python,$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile)
LOCKED  := $(INSTALL) --no-deps --only-binary :all: --require-hashes
COMPILE := $(BIN)/python -m compileall -qq -j 0 .venv/lib || true

.PHONY: help setup reproduce test test-all lab app check audit format lock clean

help:           ## this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

setup: $(STAMP) ## the virtual environment, once, by uv if it is there, else by pip   [UV= for pip]

$(STAMP): pyproject.toml $(LOCKS)/base.txt $(LOCKS)/build.txt locks/extras.txt locks/versions.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 12) else "Python 3.11 or 3.12 is needed (compressai has no packages for others), this is %d.%d: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) --constraint locks/versions.txt torch
	$(LOCKED) -r $(LOCKS)/base.txt -r $(LOCKS)/build.txt -r locks/extras.txt
	$(INSTALL) --no-deps --no-build-isolation --editable .
	$(COMPILE)
	@touch $@

$(TESTS): $(STAMP) locks/tests.txt
	$(LOCKED) -r locks/tests.txt
	$(COMPILE)
	@touch $@

reproduce: $(STAMP) ## train, run every notebook, write the report   [DATASET=digits|cifar10 DATA_DIR=...]
	$(BIN)/workbench reproduce --dataset "$(DATASET)" $(if $(DATA_DIR),--data-dir "$(DATA_DIR)") $(ARGS)

test: $(TESTS)  ## the tests of every part, in minutes   [ARGS="-k codecs"]
	$(PYTEST) -m "not system and not timing" $(ARGS)

test-all: $(TESTS) ## what `make test` leaves out: whole systems, then what measures time, alone
	$(PYTEST) -m "system and not timing" $(ARGS) || [ $$? -eq 5 ]
	$(PYTEST) -n 0 -m timing $(ARGS) || [ $$? -eq 5 ]

lab: $(STAMP)   ## JupyterLab on notebooks/explore.ipynb   [ARGS="--no-browser --port=8888"]
	$(BIN)/jupyter lab notebooks/explore.ipynb $(ARGS)

app: $(STAMP)   ## explore as a page of its own, without code   [ARGS="-p dataset digits"]
	$(BIN)/python -m workbench.panels.app $(ARGS)

check: $(TESTS) ## format, lint, types, stripped notebooks, words, results pages
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/nbstripout --verify notebooks/*.ipynb
	$(BIN)/python tests/words.py
	$(BIN)/workbench results --check

audit: $(TESTS) ## published advisories against what is installed (needs the package index)
	WORKBENCH_AUDIT=1 $(BIN)/python -m pytest -rs tests/test_dependencies.py

format: $(TESTS) ## format the code, strip the notebooks
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/nbstripout notebooks/*.ipynb

lock: $(TESTS)  ## renew the locks (needs uv)
	$(BIN)/python tests/lock.py

clean:          ## remove the environment (data/ stays)
	rm -rf .venv build *.egg-info
