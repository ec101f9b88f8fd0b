# Everything from a fresh Debian 12 with python3 and make:
#   make demo     a three-node cluster on loopback, shown step by step
#   make test     lint, types and every test
# Both make their own virtual environment in .venv on the first run.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Twice quiet: errors only.  (Debian 12's pip warns about how the old package pysyncobj is built.)
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
# More arguments, for example: make demo ARGS="--nodes 5", make pytest ARGS="tests/unit -x"
ARGS ?=
# Test processes: tests of clusters mostly wait, so twice as many as cores keep the cores busy.
WORKERS ?= $(shell expr 2 '*' $$(nproc))

# The stamps name what is installed; a change of pyproject.toml or of the version installs again.
PYTHON_READY := $(VENV)/.python-ready
RUNTIME := $(VENV)/.runtime-installed
DEV := $(VENV)/.dev-installed
FUZZ := $(VENV)/.fuzz-installed
BENCH := $(VENV)/.bench-installed
INPUTS := pyproject.toml cyoloctl/__init__.py

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo install bundle manual dev test pytest lowest lint format types generate screenshots faults fuzz bench bench-tokens sim mutants clean distclean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: $(RUNTIME) ## a three-node cluster on this machine: replicate, kill the leader, recover
	@$(BIN)/cyoloctl demo $(ARGS)

test: lint types pytest ## lint, types and every test (ends with a failure at the first that fails)

install: $(RUNTIME) ## the command in .venv/bin/cyoloctl

bundle: $(RUNTIME) ## dist/: archives that install without a network, from the last commit; KEY=FILE signs
	@$(BIN)/python -m tools.bundle $(if $(KEY),--key "$(KEY)") $(ARGS)

manual: $(RUNTIME) ## dist/manual.html: README, docs/ and changelog in one file
	@$(BIN)/python -m tools.manual $(ARGS)

dev: $(DEV) ## the same with the development tools

# In parallel, then those that need the machine alone.  Status 5 is "no test was chosen": ARGS may choose
# tests of one kind only.
pytest: $(DEV) ## the tests, without lint and types; ARGS="tests/unit -x" narrows
	@status=0; $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal $(ARGS) || status=$$?; \
		[ $$status = 0 ] || [ $$status = 5 ] || exit $$status; \
		$(BIN)/python -m pytest --alone $(ARGS) || { last=$$?; [ $$last = 5 ] && exit $$status; exit $$last; }

lowest: $(DEV) ## the unit tests with the lowest releases of our dependencies that pyproject.toml allows
	@mkdir -p build && $(BIN)/python -m tools.lowest > build/lowest.txt
	@PIP_CONSTRAINT="$(CURDIR)/build/lowest.txt" $(MAKE) --no-print-directory VENV=.venv-lowest pytest \
		ARGS="tests/unit -q $(ARGS)"

lint: $(DEV) ## ruff
	$(BIN)/python -m ruff check .

format: $(DEV) ## let ruff repair what it can and format
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

types: $(DEV) ## mypy, strict
	$(BIN)/python -m mypy

generate: $(DEV) ## the checked-in generated files: reference, man page, completions, openapi.json
	$(BIN)/python -m tools.generate $(ARGS)

screenshots: $(DEV) ## the pictures of README.md, docs/console.md and docs/rendezvous.md (apt-get install chromium chromium-driver)
	$(BIN)/python -m tools.screenshots
	SCREENSHOTS=1 $(BIN)/python -m pytest -q tests/browser

# Seconds of faults for each size, and where the reports go.  As root: it makes network namespaces.
SECONDS ?= 600
REPORT ?= faults-report

faults: $(DEV) ## three, then five real nodes under faults, checked (root); SECONDS=60 REPORT=DIR
	$(BIN)/python -m tests.chaos.run --nodes 3 --seconds $(SECONDS) --report $(REPORT)/3-nodes $(ARGS)
	$(BIN)/python -m tests.chaos.run --nodes 5 --seconds $(SECONDS) --report $(REPORT)/5-nodes $(ARGS)

fuzz: $(FUZZ) ## coverage-guided fuzzing of every decoder (atheris); SECONDS=60 for all together
	@$(BIN)/python -m tests.fuzz.atheris_run --seconds $(SECONDS) $(ARGS)

mutants: $(DEV) ## plant faults, one at a time, that tests must catch: those of changed modules; ARGS="--all", ARGS="raft"
	@$(BIN)/python -m tests.mutants $(or $(ARGS),--changed)

bench: $(DEV) ## measure beside etcd and NATS on this machine (benchmarks/README.md); ARGS="--help"
	$(BIN)/python -m benchmarks.compare $(ARGS)

bench-tokens: $(BENCH) ## session tokens beside Fernet, JWE, PASETO and itsdangerous; ARGS="--help"
	$(BIN)/python -m benchmarks.tokens $(ARGS)

sim: $(RUNTIME) ## 10,000 simulated clusters under faults, about half an hour on two cores; ARGS="--seeds 0:500"
	@$(BIN)/cyoloctl sim --seeds 0:10000 $(ARGS)

clean: ## remove caches and build results
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find cyoloctl tests benchmarks tools -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## and the virtual environment
	rm -rf $(VENV) .venv-lowest

# Debian's python3 comes without ensurepip, which the package python3-venv adds:
# without it `python3 -m venv` leaves a directory that has no pip.
$(PYTHON_READY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: $(PYTHON) must be Python 3.11 or newer; choose one with make PYTHON=/path/to/python3" >&2; exit 1; }
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "installing the package python3-venv (this Python has no ensurepip)" >&2; \
			apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
				apt-get -qq install --yes --no-install-recommends python3-venv >/dev/null; \
		fi; \
		$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
			echo "make: $(PYTHON) cannot make virtual environments; run this, then make again:" >&2; \
			echo "    sudo apt-get install python3-venv" >&2; exit 1; }; \
	fi
	@echo "making the virtual environment $(VENV)" >&2
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(RUNTIME): $(INPUTS) | $(PYTHON_READY)
	@echo "installing cyoloctl into $(VENV)" >&2
	@$(PIP) install --editable .
	@touch $@

$(DEV): $(INPUTS) | $(PYTHON_READY)
	@echo "installing cyoloctl and its development tools into $(VENV)" >&2
	@$(PIP) install --editable '.[dev]'
	@touch $(RUNTIME) $@

$(BENCH): $(INPUTS) | $(PYTHON_READY)
	@echo "installing cyoloctl and what its tokens are measured beside into $(VENV)" >&2
	@$(PIP) install --editable '.[bench]'
	@touch $(RUNTIME) $@

# Where there is no wheel of atheris, `make fuzz` says so and ends with status 77.
$(FUZZ): $(INPUTS) | $(DEV)
	@echo "installing atheris into $(VENV)" >&2
	@$(PIP) install --only-binary atheris --editable '.[dev,fuzz]' || true
	@touch $@
