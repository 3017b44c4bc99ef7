# `make run` and `make test` work in a fresh clone: both make .venv and install what the lock file names.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CHALLENGE := configs/challenge-1024x120.yaml
NEURONS ?= all
LAYERS ?= all

.DEFAULT_GOAL := help
.PHONY: help install run test test-lowest lint types format graphs challenge bench-kernels bench-scaling docs lock clean

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/installed ## Make .venv and install the package with its tools.

$(VENV)/installed: pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "taskgraph-dnn needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

run: $(VENV)/installed ## Run 1,024 neurons x 120 layers on 60,000 images and check the answer.
	$(BIN)/taskgraph-dnn run --config $(CHALLENGE)

test: $(VENV)/installed ## Run all tests and report their coverage.
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

test-lowest: ## Run all tests with the lowest versions that pyproject.toml allows, in an environment of their own.
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct -e '.[all]' --group dev
	.venv-lowest/bin/python -m pytest

lint: $(VENV)/installed ## Check style and formatting.
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/installed ## Check types.
	$(BIN)/mypy

format: $(VENV)/installed ## Format the code.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

graphs: $(VENV)/installed ## Make the reference graphs in graphs/ again.
	for strategy in data pipeline hybrid; do \
		$(BIN)/taskgraph-dnn visualize graphs/$$strategy.svg --layout grid --strategy $$strategy --config configs/reference-graph.yaml && \
		$(BIN)/taskgraph-dnn visualize graphs/$$strategy.json --strategy $$strategy --config configs/reference-graph.yaml || exit; \
	done
	$(BIN)/taskgraph-dnn timeline graphs/timeline.json graphs/timeline.svg

challenge: $(VENV)/installed ## Run the Graph Challenge, all or NEURONS=1024,4096 LAYERS=120, and verify it: hours, 25 GiB of disk.
	mkdir -p docs/benchmarks
	$(BIN)/taskgraph-dnn challenge --neurons $(NEURONS) --layers $(LAYERS) \
		--json docs/benchmarks/challenge.json --markdown docs/benchmarks/challenge.md

bench-kernels: $(VENV)/installed ## Time all kernels beside the other libraries that are installed: 15 minutes, nothing else running.
	mkdir -p docs/benchmarks
	$(BIN)/python -m taskgraph_dnn.benchmarks.kernels --json docs/benchmarks/kernels.json --markdown docs/benchmarks/kernels.md

bench-scaling: $(VENV)/installed ## Time scheduling, and simulate strategies on up to 1,024 workers: a quarter of an hour, nothing else running.
	mkdir -p docs/benchmarks
	$(BIN)/python -m taskgraph_dnn.benchmarks.scheduling --json docs/benchmarks/scheduling.json --markdown docs/benchmarks/scheduling.md
	$(BIN)/python -m taskgraph_dnn.benchmarks.scaling --json docs/benchmarks/scaling.json --markdown docs/benchmarks/scaling.md

docs: $(VENV)/installed ## Write the documentation's site to build/site.
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --config-file configs/mkdocs.yml

lock: ## Resolve the newest versions into requirements.lock.
	$(PYTHON) -m pip install --quiet uv
	$(PYTHON) -m uv pip compile --quiet --universal --python-version 3.11 --upgrade --no-annotate --no-emit-index-url --no-emit-find-links \
		--no-header --extra all --group dev --output-file requirements.lock pyproject.toml

clean: ## Remove what the other targets made.
	rm -rf $(VENV) .venv-lowest build dist *.egg-info .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache
