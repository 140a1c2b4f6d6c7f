# Every target prints its meaning with `make help`.
SHELL := /bin/bash
VENV := .venv
PYTHON := $(VENV)/bin/python
STAMP := $(VENV)/.installed
BASE_PYTHON ?= python3
PROCESSES ?= 2
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# The tools of the build come from build-hashes.txt, and not from an environment that pip fills with what is newest.
INSTALL = $(PYTHON) -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable

.DEFAULT_GOAL := help
.PHONY: help setup check format test fast demo bench quality crds docs constraints hashes release clean

help: ## Show what each target does
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(STAMP) ## Make .venv with pinned dependencies and the package in editable form

$(STAMP): pyproject.toml constraints.txt build-hashes.txt
	@$(BASE_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "tangram needs Python 3.11 or newer; $(BASE_PYTHON) is $$($(BASE_PYTHON) --version 2>&1)"; exit 1; }
	@[ -x $(PYTHON) ] || $(BASE_PYTHON) -m venv $(VENV)
	@echo "installing the pinned dependencies into $(VENV)"
	@$(PYTHON) -m pip install --quiet --only-binary :all: --require-hashes --requirement build-hashes.txt
	@$(INSTALL) '.[dev]'
	@touch $(STAMP)

check: setup ## Format, lint, types and import contracts
	@$(VENV)/bin/ruff format --check --quiet . || { echo "run make format"; exit 1; }
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

format: setup ## Rewrite the sources in the one format
	@$(VENV)/bin/ruff format --quiet .
	@$(VENV)/bin/ruff check --quiet --fix .

crds: setup ## Regenerate crds/, the chart's copy and docs/api-fields.md from the pydantic models
	@$(VENV)/bin/tangram crds --write crds --write charts/tangram/files/crds --reference docs/api-fields.md

docs: setup ## Regenerate the tables of docs/ from the code
	@$(PYTHON) docs/generate.py

fast: setup ## The tests that need no cluster, without the long ones
	@$(VENV)/bin/tangram scheduler --warm-up
	@PYTHONDONTWRITEBYTECODE= TANGRAM_EXAMPLES=$${TANGRAM_EXAMPLES:-0.1} $(PYTHON) -m pytest -q -n 3 --dist worksteal -m "not cluster and not gpu and not slow"

test: check ## make check, and every test tier whose means are there (builds the sandbox's binaries when missing)
	@$(VENV)/bin/tangram sandbox build --with kube-scheduler --with kubelet
	@$(VENV)/bin/tangram scheduler --warm-up
	@$(PYTHON) -m pytest -q -n $(PROCESSES) --dist loadgroup

demo: setup ## The main job on a local cluster: policy, gang, fractions, service, and what waits and why
	@$(VENV)/bin/tangram demo

bench: setup ## Benchmarks with ratios taken in one run
	@$(VENV)/bin/tangram sandbox build --with kube-scheduler
	@$(PYTHON) -m tests.bench

quality: setup ## How full each placement policy gets the openb pool, with published figures and an upper bound
	@$(INSTALL) '.[quality]'
	@$(VENV)/bin/tangram quality $(QUALITY)

constraints: setup ## Pin what is installed now, and write the hashes of what an image is built from
	@{ head -1 constraints.txt; $(PYTHON) -m pip freeze --exclude-editable; } > constraints.new && mv constraints.new constraints.txt
	@$(MAKE) --no-print-directory hashes

hashes: setup ## Write hashes.txt and build-hashes.txt from pyproject.toml and constraints.txt
	@$(INSTALL) '.[release]'
	@$(PYTHON) .ci/hashes.py

release: setup ## Build, install and check a release, and cut the changelog: make release VERSION=1.2.3
	@$(INSTALL) '.[release]'
	@$(VENV)/bin/tangram sandbox build
	@$(PYTHON) .ci/release.py $(VERSION)

clean: ## Remove the virtual environment and caches of this checkout
	@rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
