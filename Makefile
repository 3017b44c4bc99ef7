# `make run` and `make test` work in a fresh clone: both make .venv and install what the lock file names.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CHALLENGE := configs/challenge-1024x120.yaml
NEURONS ?= all
LAYERS ?= all

.DEFAULT_GOAL := help
BENCHMARKS := bench bench-all bench-page bench-smoke bench-smoke-baseline
.PHONY: $(BENCHMARKS) help install peers run test test-lowest lint types format graphs challenge docs lock clean

help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/installed ## Make .venv and install the package with its tools.

$(VENV)/installed: pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "taskgraph-dnn needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

peers: $(VENV)/installed ## Install the libraries that this one is compared with, and tested with the models of: gigabytes.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r configs/peers.txt

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

bench: $(VENV)/installed ## Time this package beside all other libraries that are installed: 10 minutes, nothing else running.
	mkdir -p build
	$(BIN)/taskgraph-dnn bench --effort short --output build/bench.jsonl

bench-all: $(VENV)/installed ## The same with all that there is, for the page of figures: an hour.
	mkdir -p docs/benchmarks
	$(BIN)/taskgraph-dnn bench --effort all --output docs/benchmarks/report.jsonl

bench-page: $(VENV)/installed ## Make docs/benchmarks.md, and its plots, of what bench-all has measured.
	$(BIN)/taskgraph-dnn bench page docs/benchmarks/report.jsonl docs/benchmarks.md

bench-smoke: $(VENV)/installed ## Run a little of every benchmark; fails if more work is counted than in tests/data/smoke.jsonl.
	mkdir -p build
	$(BIN)/taskgraph-dnn bench --effort smoke --output build/smoke.jsonl
	$(BIN)/taskgraph-dnn bench compare --counted tests/data/smoke.jsonl build/smoke.jsonl

bench-smoke-baseline: $(VENV)/installed ## Count the work for tests/data/smoke.jsonl again, after a change that is meant to do other work.
	mkdir -p tests/data
	$(BIN)/taskgraph-dnn bench --effort smoke --output tests/data/smoke.jsonl

docs: $(VENV)/installed ## Write the documentation's site to build/site; to search in it, serve it: python -m http.server -d build/site.
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --config-file configs/mkdocs.yml

lock: ## Resolve the newest versions into requirements.lock.
	$(PYTHON) -m pip install --quiet uv
	$(PYTHON) -m uv pip compile --quiet --universal --python-version 3.11 --upgrade --no-annotate --no-emit-index-url --no-emit-find-links \
		--no-header --extra all --group dev --output-file requirements.lock pyproject.toml

clean: ## Remove what the other targets made.
	rm -rf $(VENV) .venv-lowest build dist *.egg-info .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache
