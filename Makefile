# `make help` lists the targets. Everything is installed into .venv; nothing else on the machine is touched.

PYTHON ?= python3.11
VENV   ?= .venv
GPU_PYTHON ?= python3.12
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready
PIP    := $(BIN)/pip --disable-pip-version-check
# What comes as source is built with the locked tools.
WITH   := --build-constraint requirements/build.txt
# Tests side by side, one on each core, where threads of torch would be in each other's way.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses logical --maxprocesses 8

.DEFAULT_GOAL := help
.PHONY: help setup run test test-slow test-cluster lint check fmt compile docs pictures lock images gpu-wheels clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with everything (PYTHON=python3.12 for another Python)

$(STAMP): pyproject.toml requirements/dev.txt requirements/fairseq.txt requirements/build.txt requirements/torch.txt
	@bash requirements/preflight.sh "$(PYTHON)"
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@echo "installing into $(VENV) (a few minutes the first time)"
	@$(PIP) install --quiet --requirement requirements/build.txt
	@# The list is whole, but for torch, whose packages of CUDA its own wheel pins.
	@$(PIP) install --quiet --no-deps $(WITH) --requirement requirements/dev.txt
	@$(PIP) install --quiet --requirement requirements/torch.txt
	@# Built apart from torch: with torch in sight its setup wants C++ files that the sdist lacks.
	@$(PIP) install --quiet --no-deps $(WITH) --requirement requirements/fairseq.txt
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

run: setup ## the whole pipeline on a made-up data set, about a minute
	@$(BIN)/race run --config smoke

test: setup ## the tests, a quarter of an hour on two cores
	@# Files stay whole: many of their tests share a trained model.
	@$(PYTEST) --dist loadfile --no-loadscope-reorder

test-slow: setup ## the tests that take longer
	@$(PYTEST) --dist worksteal -m slow

test-cluster: setup ## the pipeline on a real server, about 20 minutes (HOST=... STORE=s3://... NAMESPACE=...)
	@test -n "$(HOST)" -a -n "$(STORE)" || { \
	  echo "error: give HOST=http://... and STORE=s3://bucket/folder; see docs/cluster.md" >&2; exit 2; }
	@RACE_CLUSTER_HOST=$(HOST) RACE_CLUSTER_STORE=$(STORE) RACE_CLUSTER_NAMESPACE=$(NAMESPACE) \
	  RACE_CLUSTER_FLAGS="$(FLAGS)" \
	  $(BIN)/pytest --capture=no tests/cluster

lint: setup ## ruff, mypy, and whether the compiled pipelines and the README's tables are fresh; edits nothing
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/race compile --check
	@$(BIN)/python -m pipeline.docs --check

check: lint test ## what a change must pass: lint and the tests; edits nothing

fmt: setup ## format the code and fix what ruff can fix
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

compile: setup ## write pipeline.yaml and sweep.yaml
	@$(BIN)/race compile

docs: setup ## write the generated parts of README.md and docs/
	@$(BIN)/python -m pipeline.docs

pictures: setup ## draw the pictures of README.md and RESULTS.md; the report's needs a Chromium
	@$(BIN)/python benchmarks/pictures.py
	@RACE_PICTURES=1 $(BIN)/pytest --quiet -m slow tests/reports/test_pictures.py

lock: setup ## write requirements/*.txt from pyproject.toml: versions and hashes
	@bash requirements/lock.sh $(BIN)

images: setup ## both container images (BASE_IMAGE=... TORCH=cpu NETWORK=host)
	@$(BIN)/race images build $(if $(BASE_IMAGE),--base-image $(BASE_IMAGE)) \
	  $(if $(TORCH),--torch $(TORCH)) $(if $(NETWORK),--network $(NETWORK))

gpu-wheels: ## what a machine with torch alone needs for benchmarks/gpu_first.py (GPU_PYTHON=python3.12)
	@bash requirements/gpu-wheels.sh "$(GPU_PYTHON)" build/gpu-wheels

clean: ## remove .venv and the runs
	rm -rf $(VENV) runs
