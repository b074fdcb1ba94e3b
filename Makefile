# `make help` lists what can be done. Nothing here needs root; .venv is made where it is needed.

VENV ?= .venv
JOBS ?= $(shell expr 5 "*" $$(nproc) / 2)# five on two cores: most tests wait for media in real time
PYTEST_ARGS ?=
FULL ?=# 1: the long form of `make bench`
MINUTES ?=# of `make fuzz` (10) and `make soak` (30)
BIN := $(VENV)/bin
NATIVE := $(CURDIR)/build/native
AS_SHIPPED := PYTHONSAFEPATH=1 PYTHONPATH=$(NATIVE):$(CURDIR)# and where it couldn't be compiled, the source
SOURCES := tvarr tests examples
unexport PYTHONDONTWRITEBYTECODE# a role compiles itself in a third of a second, and tests start some hundreds

.DEFAULT_GOAL := help
.PHONY: help install venv run demo test native test-native images test-images lock check format bench bench-docs bench-faults fuzz soak examples generate docs \
    release-protocol clean
.DELETE_ON_ERROR:

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

run: $(VENV)/.installed  ## start a coordinator and a daemon here, with a demo channel
	@exec $(BIN)/python -m tvarr.demo run

demo: $(VENV)/.installed  ## start both for a moment, watch the demo channel, check what came
	@exec $(BIN)/python -m tvarr.demo check

install: $(VENV)/.installed  ## make .venv with what running it needs: .venv/bin/tvarr, and FFmpeg

venv: $(VENV)/.installed-dev  ## make .venv with everything that development needs

test: $(VENV)/.installed-dev  ## run the tests
	$(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -rfEs $(PYTEST_ARGS)

native: $(NATIVE)/.made  ## compile what handles media, as the images have it (needs a C compiler and Python's headers)

$(NATIVE)/.made: pyproject.toml $(wildcard tvarr/*.py tvarr/*/*.py tvarr/*/*/*.py templates/* templates/*/* proto/*/*/*) \
    | $(VENV)/.installed-dev
	rm -rf $(NATIVE) build/sdist
	$(BIN)/hatchling build --target sdist --directory build/sdist
	HATCH_BUILD_HOOK_ENABLE_MYPYC=true $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    --no-deps --target $(NATIVE) build/sdist/tvarr-*.tar.gz
	@touch $@

test-native: $(NATIVE)/.made  ## run the tests of what handles media on the compiled modules
	PYTHONPATH=$(NATIVE) TVARR_TEST_NATIVE=1 $(BIN)/pytest --import-mode=append -n $(JOBS) -rfEs tests/media

images:  ## build the container images with podman, docker or buildah
	container/build.sh

test-images: $(VENV)/.installed-dev  ## build them from Debian's packages, as root, and try them
	PYTEST=$(BIN)/pytest container/test.sh

lock:  ## pin what the images install, from pyproject.toml (needs uv)
	container/lock.sh

check: $(VENV)/.installed-dev  ## lint, types, layers, generated code, shell scripts
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/pytest tests/test_layers.py
	$(BIN)/python -m tvarr.wire.generate --check
	sh -n run-roles.sh
	sh -n container/as-user.sh
	for script in .ci/run container/build.sh container/lock.sh container/test.sh; do bash -n $$script || exit 1; done
	@if command -v shellcheck >/dev/null; then shellcheck -S warning run-roles.sh container/*.sh .ci/run; fi

format: $(VENV)/.installed-dev  ## format the code
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: $(VENV)/.installed-dev  ## measure, and print the numbers: in 5 minutes, or thoroughly with FULL=1
	-@$(MAKE) --no-print-directory native
	$(AS_SHIPPED) $(BIN)/python -m tests.bench $(if $(FULL),--full)

bench-docs: $(VENV)/.installed-dev  ## measure thoroughly on a quiet machine, and write docs/benchmarks.md
	-@$(MAKE) --no-print-directory native
	$(AS_SHIPPED) $(BIN)/python -m tests.bench --full --write-docs

bench-faults: $(VENV)/.installed-dev  ## kill, stop and cut off daemons under viewers, count what they lose
	-@$(MAKE) --no-print-directory native
	$(AS_SHIPPED) $(BIN)/python -m tests.bench.faults

soak: $(VENV)/.installed-dev  ## kill and stop daemons under eight relays for MINUTES (30), look for what grows, draw it
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	-@$(MAKE) --no-print-directory native
	$(AS_SHIPPED) $(BIN)/python -m tests.bench.faults soak --minutes $(or $(MINUTES),30)

examples: $(VENV)/.installed-dev  ## make the examples' code from proto/, and build them (needs Node and Go)
	$(MAKE) --no-print-directory -C examples PYTHON=$(abspath $(BIN))/python

fuzz: $(VENV)/.installed-dev  ## feed garbage to every parser, for MINUTES (10)
	$(BIN)/python -m tests.fuzz --minutes $(or $(MINUTES),10)

generate: $(VENV)/.installed-dev  ## make tvarr/wire/v1 from the .proto
	$(BIN)/python -m tvarr.wire.generate

docs: $(VENV)/.installed-dev  ## write the README's tables of settings, and the protocol's reference
	$(BIN)/python -m tests.test_readme
	$(BIN)/python -m tests.wire.reference

release-protocol: $(VENV)/.installed-dev  ## keep the protocol as it is now: what later versions may not break
	$(BIN)/python -m tests.wire.breaking

clean:  ## remove what was made here, .venv too
	$(MAKE) --no-print-directory -C examples clean
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

# The newest Python that is new enough and can make virtual environments, unless PYTHON names one.
$(BIN)/python:
	@for python in $${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do \
	    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	    enough=$$python; \
	    "$$python" -c 'import ensurepip, venv' 2>/dev/null || continue; \
	    exec "$$python" -m venv $(VENV); \
	done; \
	if [ -n "$$enough" ]; then \
	    echo "$$enough can't make virtual environments: install its venv module (Debian: apt install python3-venv)" >&2; \
	else \
	    echo "no Python 3.11 or newer was found: install one, or name it with PYTHON=..." >&2; \
	fi; \
	exit 1

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[ffmpeg]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[ffmpeg,dev]'
	@touch $@ $(VENV)/.installed
