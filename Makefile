# Penstock's targets. Each sets up what it needs in .venv first; CI (.ci/run) calls the same ones.
#
# There are two set-ups, each with a stamp that goes stale when pyproject.toml or constraints.txt changes: the runtime
# with the CPU extras for `make demo`, and the developers' tools on top for everything else.

PYTHON ?= python3
PYTEST_ARGS ?=
FUZZ_SECONDS ?= 60
BENCH_ARGS ?=
ABUSE_SECONDS ?= 5

VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime-installed
TOOLS := $(VENV)/.tools-installed
# Errors only: pip's warnings (it runs as root, an index lacks a name) would bury what a newcomer should read.
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt

# ONNX Runtime's official builds report what they run to their maker unless told otherwise.
export ORT_DISABLE_TELEMETRY ?= 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# The targets share one .venv and two cores: running them side by side would only confuse them.
.NOTPARALLEL:

.PHONY: help demo test lint types proto proto-check format bench bench-peers abuse memory fuzz interop wheel-check clean

help: ## list the targets
	@awk -F ': .*## ' '/^[a-z-]+: .*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(RUNTIME) ## start a server with the example models, call it in every way once, show what came back
	@$(BIN)/penstock demo

test: $(TOOLS) ## run the whole test suite (PYTEST_ARGS='-k batch' passes through)
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(TOOLS) ## check style and formatting with ruff
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

types: $(TOOLS) ## check types with mypy and pyright
	@$(BIN)/mypy
	@$(BIN)/pyright

proto: $(TOOLS) ## regenerate the Python stubs beside their .proto files
	@$(BIN)/python scripts/gen_proto.py

proto-check: $(TOOLS) ## fail if a committed stub differs from what its .proto file gives
	@$(BIN)/python scripts/gen_proto.py --check

format: $(TOOLS) ## format the code, and fix what ruff can fix
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

bench: $(TOOLS) ## measure this Penstock shortly: three models, three loads, a minute or two (into build/bench)
	@mkdir -p build/bench
	@$(BIN)/penstock bench peers --only penstock --seconds 2s --results build/bench $(BENCH_ARGS)

bench-peers: $(TOOLS) ## measure it beside Triton, mosec and KServe, which are installed for it (BENCH_ARGS=--all: and more)
	@mkdir -p build/bench-peers
	@$(BIN)/penstock bench peers --results build/bench-peers --resume $(BENCH_ARGS)

abuse: $(TOOLS) ## attack a server in every known way, beside a healthy client (ABUSE_SECONDS=5 each; some 8 minutes)
	@mkdir -p build/abuse
	@$(BIN)/penstock bench abuse --seconds $(ABUSE_SECONDS)s --results build/abuse

memory: $(TOOLS) ## what 10,000 idle streams take, and 200 half-sent messages of 16 MiB (into build/memory)
	@mkdir -p build/memory
	@$(BIN)/penstock bench abuse --memory --results build/memory

fuzz: $(TOOLS) ## send the HTTP/2 connection nonsense, guided by its coverage (FUZZ_SECONDS=60)
	@$(INSTALL) --group fuzz
	@$(BIN)/python tests/fuzz/http2.py -max_total_time=$(FUZZ_SECONDS)

interop: $(TOOLS) ## run gRPC's interop cases with clients in Node and C++, as far as their tools are installed
	@$(BIN)/python -m tests.interop.run

wheel-check: $(TOOLS) ## build the wheel, look at what it holds, and use it in an empty environment
	@$(BIN)/python scripts/check_wheel.py

clean: ## remove build output and caches (.venv stays: delete it to start over)
	@rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# ---------------------------------------------------------------------------------------------------------------------

# Debian's Python comes without ensurepip, and `python -m venv` then fails only after leaving half an environment.
$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || \
	  { echo "Penstock needs Python 3.11 or newer, and there is no '$(PYTHON)': install one, or name it: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Penstock needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) -V 2>&1): name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "'$(PYTHON)' cannot make a virtual environment: apt install python3-venv, then run make again." >&2; exit 1; }
	@echo "-- making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

# pip itself comes first: older ones know neither --group nor --build-constraint, which pins what an editable install is
# built with, in an environment of its own.
define install_penstock
@$(INSTALL) pip
@$(INSTALL) --build-constraint constraints.txt --editable '.[all]' $(1)
endef

$(RUNTIME): pyproject.toml constraints.txt | $(BIN)/python
	@echo "-- installing Penstock and ONNX Runtime into $(VENV) (once; well under a minute on a fast line)"
	$(call install_penstock)
	@touch $@

$(TOOLS): pyproject.toml constraints.txt | $(BIN)/python
	@echo "-- installing Penstock and the developers' tools into $(VENV) (once; a minute or two)"
	$(call install_penstock,--group dev)
	@touch $(RUNTIME) $@
