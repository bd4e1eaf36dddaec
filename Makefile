# One environment in .venv, made once; every target below uses it.
PYTHON  ?= python3
DATASET ?= digits
DATA_DIR ?=
ARGS    ?=

BIN   := .venv/bin
STAMP := .venv/.installed

.PHONY: help setup reproduce test lab app check audit format lock clean

help:           ## this list
	@grep -hE '^[a-z]+: .*##|^[a-z]+:  .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

setup: $(STAMP) ## the virtual environment, once

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 12) else "Python 3.11 or 3.12 is needed, this is %d.%d: make PYTHON=python3.11 ..." % sys.version_info[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$$(sed -nE 's/^ *"(torch==[^"]+)".*/\1/p' pyproject.toml)"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

reproduce: $(STAMP) ## train, run every notebook, write the report   [DATASET=digits|cifar10 DATA_DIR=...]
	$(BIN)/workbench reproduce --dataset "$(DATASET)" $(if $(DATA_DIR),--data-dir "$(DATA_DIR)") $(ARGS)

test: $(STAMP)  ## the tests   [ARGS="-k codecs"]
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile $(ARGS)

lab: $(STAMP)   ## JupyterLab on notebooks/explore.ipynb
	$(BIN)/jupyter lab notebooks/explore.ipynb

app: $(STAMP)   ## explore as a page of its own, without code   [ARGS="-p dataset digits"]
	$(BIN)/python -m workbench.panels.app $(ARGS)

check: $(STAMP) ## format, lint, types, stripped notebooks, words, results pages
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/nbstripout --verify notebooks/*.ipynb
	$(BIN)/python tests/words.py
	$(BIN)/workbench results --check

audit: $(STAMP) ## published advisories against what is installed (needs the package index)
	WORKBENCH_AUDIT=1 $(BIN)/python -m pytest -rs tests/test_dependencies.py

format: $(STAMP) ## format the code, strip the notebooks
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/nbstripout notebooks/*.ipynb

lock: $(STAMP)  ## the locked packages of hosts and images, anew (needs uv)
	$(BIN)/python tests/lock.py

clean:          ## remove the environment (data/ stays)
	rm -rf .venv build *.egg-info
