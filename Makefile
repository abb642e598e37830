# make run                              the series on the embedded sample data
# make run DATA=path RUN=runs/name      the series on your own three folders of images
# make test                             lint, the notebook pairs, unit tests, every notebook on tiny data
# make soak                             the long versions of some tests
# make sync                             bring the notebooks up to date with their scripts
PYTHON ?= python3
BIN := .venv/bin
NOTEBOOKS := 01_explore 02_balance 03_train 04_evaluate
export PYTHONUNBUFFERED := 1

.PHONY: run test soak lint sync clean
.DELETE_ON_ERROR:

run: .venv/installed
	@set -e; for name in $(NOTEBOOKS); do \
	  printf '\n== %s\n' $$name; \
	  $(if $(DATA),BONELIB_DATA='$(DATA)') $(if $(RUN),BONELIB_RUN='$(RUN)') $(BIN)/python notebooks/$$name.py; \
	done

test: .venv/installed lint
	$(BIN)/python -m pytest
	@set -e; for name in $(NOTEBOOKS); do \
	  BONELIB_SMOKE=1 BONELIB_CACHE='$(CURDIR)/.cache/smoke' BONELIB_RUN="$$(mktemp -d)" \
	  $(BIN)/python -m pytest --nbmake --nbmake-timeout=600 notebooks/$$name.ipynb; \
	done

soak: .venv/installed
	$(BIN)/python -m pytest -m soak

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(BIN)/jupytext --quiet --to ipynb --update notebooks/*.py
	git diff --exit-code --stat notebooks/

sync: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/jupytext --to ipynb --update notebooks/*.py

.venv/installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else \
	  "$(PYTHON) is Python %d.%d; bonelib needs 3.11 or newer: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

clean:
	rm -rf .venv .cache runs
