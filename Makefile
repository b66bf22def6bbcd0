# make setup | test | demo | bench | docs | lint: each does the set-up it needs, once.
SHELL := /bin/sh
PYTHON := .venv/bin/python
PYTEST_ARGS ?= -n 2
BENCH_ARGS ?=
# two test processes, not two times as many threads as there are cores
export OPENBLAS_NUM_THREADS ?= 1

.PHONY: setup test demo bench docs lint

setup: .venv/installed

.venv/installed: setup.py pyproject.toml tools/setup.sh
	@tools/setup.sh
	@touch $@

test: setup
	@$(PYTHON) -m pytest $(PYTEST_ARGS)

demo: setup
	@tools/demo.sh

bench: setup
	@$(PYTHON) tools/bench.py $(BENCH_ARGS)
	@$(PYTHON) tools/bench_scaling.py

docs: setup
	@$(PYTHON) tools/make_docs.py

lint: setup
	@if $(PYTHON) -m ruff --version >/dev/null 2>&1; then $(PYTHON) -m ruff check .; \
	elif command -v ruff >/dev/null; then ruff check .; \
	else echo "ruff is not installed (Debian has no package of it): only checking that every file compiles"; \
	$(PYTHON) -m compileall -q setup.py libtbx_refresh.py diffuse_dials command_line tests tools; fi
