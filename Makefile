# make run                              the series on the embedded sample data
# make run DATA=path RUN=runs/name      the series on your own images, one folder per class
# make test                             lint, the notebook pairs, unit tests, every notebook on tiny data
# make test-colab                       the same tests on the versions that a stock Colab runtime ships
# make test-colab RUNTIME=2026.04       ... that an older runtime ships, which users can still choose
# make bench, make bench-gpu            speed, side by side with what a user would pick instead
# make soak                             the long versions of some tests
# make docs                             the notebooks, executed on the sample, into docs/notebooks
# make sync                             bring the notebooks up to date with their scripts
# make colab REPO=owner/name            put the repository's address into the badges and setup cells
PYTHON ?= python3
VENV := .venv
RUNTIME ?= newest
BIN := $(VENV)/bin
NOTEBOOKS := $(basename $(notdir $(sort $(wildcard notebooks/*.py))))
export PYTHONUNBUFFERED := 1

.PHONY: run test test-colab tests resolve bench bench-gpu soak docs lint sync colab clean
.DELETE_ON_ERROR:

run: $(VENV)/installed
	@set -e; for name in $(NOTEBOOKS); do \
	  printf '\n== %s\n' $$name; \
	  $(if $(DATA),BONELIB_DATA='$(DATA)') $(if $(RUN),BONELIB_RUN='$(RUN)') $(BIN)/python notebooks/$$name.py; \
	done

test: lint tests

test-colab:
	$(MAKE) VENV=.venv-colab-$(RUNTIME) CONSTRAINT='--constraint .ci/colab/$(RUNTIME).txt' resolve tests

tests: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
	@runs="$$(mktemp -d)"; trap 'rm -rf "$$runs"' EXIT; printf '%s\n' $(NOTEBOOKS) | xargs -P 2 -I NAME \
	  env OMP_NUM_THREADS=1 BONELIB_SMOKE=1 BONELIB_CACHE='$(CURDIR)/.cache/smoke' BONELIB_RUN="$$runs/NAME" \
	  $(BIN)/python -m pytest --nbmake --nbmake-timeout=600 notebooks/NAME.ipynb

resolve: $(VENV)/installed
	$(BIN)/python .ci/resolve.py .ci/colab/$(RUNTIME).txt

bench: .venv-bench/installed
	CUDA_VISIBLE_DEVICES= .venv-bench/bin/python benchmarks/run.py

bench-gpu: .venv-bench/installed
	.venv-bench/bin/python benchmarks/run.py --gpu

.venv-bench/installed: benchmarks/requirements.txt requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt --editable .
	touch $@

soak: $(VENV)/installed
	$(BIN)/python -m pytest -m soak -rP

docs: $(VENV)/installed
	rm -rf runs/docs
	BONELIB_RUN=runs/docs/sample $(BIN)/python .ci/docs.py

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@$(BIN)/jupytext --quiet --to ipynb --update notebooks/*.py
	git diff --exit-code --stat notebooks/

sync: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/jupytext --to ipynb --update notebooks/*.py

colab:
	$(PYTHON) .ci/stamp.py $(REPO)

$(VENV)/installed: requirements.txt pyproject.toml .ci/colab/$(RUNTIME).txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else \
	  "$(PYTHON) is Python %d.%d; bonelib needs 3.11 or newer: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(CONSTRAINT) --requirement requirements.txt --editable .
	touch $@

clean:
	rm -rf .venv .venv-bench .venv-colab-* .cache runs
