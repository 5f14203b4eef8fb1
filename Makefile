# Everything a contributor and CI run. Needs python3 (any 3.x that has venv); uv brings Python 3.12 where it is missing.
UV_VERSION := 0.13.9
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.synced
# What `dg` asks of a shell: the environment active, its programs on the path.
ACTIVE := VIRTUAL_ENV=$(CURDIR)/.venv PATH="$(CURDIR)/$(BIN):$$PATH"
# Passed on: `make test ARGS="-k lease -x"`, `make dev ARGS="--port 3001"`.
ARGS ?=
# `make dev` works on what the `ingest` command and open_weather see.
INGEST_HOME ?= $(HOME)/.local/share/ingest_platform
DAGSTER_HOME ?= $(INGEST_HOME)/dagster

.PHONY: help demo dev test lint bench services services-stop clean
.DEFAULT_GOAL := help

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(READY) ## The platform's main job on a small local mirror; LIVE=1 takes the real public buckets
	$(BIN)/python -m ingest_platform.demo $(if $(LIVE),--live) $(ARGS)

dev: $(READY) ## Dagster's UI and daemon on your own data, under INGEST_HOME
	@mkdir -p $(DAGSTER_HOME)
	@ln -sf $(CURDIR)/dagster.yaml $(DAGSTER_HOME)/dagster.yaml
	$(ACTIVE) INGEST_HOME=$(INGEST_HOME) DAGSTER_HOME=$(DAGSTER_HOME) $(BIN)/dg dev $(ARGS)

test: $(READY) ## All tests, on real servers that it installs where it may
	$(BIN)/python -m ingest_platform_tests.services install
	$(BIN)/pytest $(ARGS)

lint: $(READY) ## Style, types, and whether Dagster can load the definitions
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(ACTIVE) $(BIN)/dg check defs

bench: $(READY) ## The measurements behind the numbers; `ARGS="gfs_hour"` for some; all rewrite README.md's table
	.tools/bin/uv sync --locked --group bench
	$(BIN)/python -m ingest_platform_tests.services install
	$(BIN)/python -m benchmarks $(ARGS)

services: $(READY) ## Start PostgreSQL, Redis, S3 and Weaviate on loopback; prints their endpoints as `export` lines
	@$(BIN)/python -m ingest_platform_tests.services install
	@$(BIN)/python -m ingest_platform_tests.services start

services-stop: ## End them and remove their data
	@$(BIN)/python -m ingest_platform_tests.services stop

clean: ## Remove what these targets made, but neither your data under INGEST_HOME nor the built servers
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m ingest_platform_tests.services stop || true; fi
	rm -rf .venv .tools .home/demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# `--locked` refuses to resolve: the set is the one that was tested.
$(READY): pyproject.toml uv.lock .python-version .tools/uv-$(UV_VERSION)
	.tools/bin/uv sync --locked
	@touch $@

.tools/uv-$(UV_VERSION):
	$(PYTHON) -m venv .tools
	.tools/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@
