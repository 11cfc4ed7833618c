# Every target runs from a virtual environment, which the first one makes: .venv, and with
# PYTHON=... one of that version's own, such as .venv-3.13.

PYTHON  ?=
VERSION := 'import sys; print("-%d.%d" % sys.version_info[:2])'
VENV    := .venv$(if $(PYTHON),$(or $(shell $(PYTHON) -c $(VERSION)),$(error PYTHON=$(PYTHON) does not run)))
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
RUNTIME := $(VENV)/.runtime
SITE    := $(VENV)/.site
DIST    := $(VENV)/.dist
CODE    := $(wildcard src tests benchmarks scripts)
RESULTS := build/coverage.json

JOBS    ?= 2
STATES  ?= 1000000
RUNS    ?= 100000
SECONDS ?= 600
KILLS   ?= 200
STRESS_SECONDS ?= 60

# Tests start the program some hundred times. A start takes twice as long where Python may not keep
# bytecode and compiles every module again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help venv demo quick test check static format format-check lint types layers coverage crash repairs \
        syscalls sequences mutations matrices races bytes corruptor hostile fuzz stress soak vm attach-kills rpc-kills nbd-kills nbd-fuzz system-packages site man dist install-check ceph bench clean
# The steps of `check` stop at the first that fails, and their output does not interleave.
.NOTPARALLEL:

help:  ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  PYTHON=python3.12 runs in an environment of that version, JOBS=$(JOBS) test processes,"
	@echo "  STATES=$(STATES) how many crash states are explored, RUNS=$(RUNS) how many orders"
	@echo "  of tasks, SECONDS=$(SECONDS) how long is fuzzed, KILLS=$(KILLS) how often a process is"
	@echo "  killed; ARGS=... what pytest is given."

# --- the environment -----------------------------------------------------------------------

venv: $(STAMP)  ## The virtual environment, redone when its requirements change

USABLE := import sys; sys.exit(sys.version_info < (3, 11))
NEEDED := import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
    print(*project["dependencies"], sep="\n")
INSTALL := install --quiet --disable-pip-version-check --constraint constraints.txt

# What the program itself needs, by the pip that is there already: `make demo` is the first that
# is run, and waits for nothing else.
$(RUNTIME): pyproject.toml constraints.txt
	@if ! $(BIN)/python -c '$(USABLE)' 2>/dev/null; then \
	    python=; \
	    for candidate in $(or $(PYTHON),python3.11 python3.12 python3.13 python3 python3.14); do \
	        if $$candidate -c '$(USABLE)' 2>/dev/null; then python=$$candidate; break; fi; \
	    done; \
	    if [ -z "$$python" ]; then \
	        echo "make: no Python 3.11 or newer on PATH; install one, or name it: make PYTHON=..." >&2; \
	        exit 1; \
	    fi; \
	    if ! $$python -c 'import ensurepip, venv' 2>/dev/null; then \
	        version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	        if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	            apt-get update -qq; \
	            apt-get install -qq -y --no-install-recommends "python$$version-venv" \
	                || apt-get install -qq -y --no-install-recommends python3-venv; \
	        fi; \
	        if ! $$python -c 'import ensurepip, venv' 2>/dev/null; then \
	            echo "make: $$python has no venv module; install python$$version-venv" >&2; \
	            exit 1; \
	        fi; \
	    fi; \
	    echo "making $(VENV) with $$python"; \
	    $$python -m venv --clear --without-pip $(VENV); \
	fi
	@$(BIN)/python -c '$(NEEDED)' >$(VENV)/needed.txt
	@base=$$($(BIN)/python -c 'import sys; print(sys._base_executable)'); \
	$$base -m pip --python $(BIN)/python $(INSTALL) --no-compile -r $(VENV)/needed.txt 2>/dev/null \
	    || { $(BIN)/python -m ensurepip >/dev/null && \
	         $(BIN)/python -m pip $(INSTALL) --no-compile -r $(VENV)/needed.txt; }
	@touch $@

$(STAMP): $(RUNTIME)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	@$(BIN)/python -m pip $(INSTALL) --editable '.[dev,fuzz]'
	@touch $@

# --- use -----------------------------------------------------------------------------------

demo: $(RUNTIME)  ## A store in an image file, a killed writer, a recovery, every byte verified
	@PYTHONPATH=src $(BIN)/python -m blobstore demo

# --- gates ---------------------------------------------------------------------------------

# Programs that tests ask for the truth: file systems, partition tables, images of other kinds.
PROGRAMS := mke2fs sfdisk mkfs.xfs mkfs.btrfs pvcreate cryptsetup qemu-img strace fusermount3 chromium mandoc \
            qemu-nbd nbdkit openssl nbdinfo nbdcopy nbdfuse nbdsh nbd-client qemu-io fio curl
PACKAGES := e2fsprogs fdisk xfsprogs btrfs-progs lvm2 cryptsetup-bin qemu-utils strace fuse3 chromium mandoc \
            nbdkit openssl libnbd-bin python3-libnbd nbd-client fio curl

# A Ceph cluster of one node is some hundred megabytes: only `make ceph` and CI install it.
CEPH_PROGRAMS := ceph-mon ceph-mgr ceph-osd monmaptool rbd
CEPH_PACKAGES := ceph-mon ceph-mgr ceph-osd ceph-common python3-rbd
ifneq ($(CI),)
PROGRAMS += $(CEPH_PROGRAMS)
PACKAGES += $(CEPH_PACKAGES)
endif
ceph: PROGRAMS += $(CEPH_PROGRAMS)
ceph: PACKAGES += $(CEPH_PACKAGES)

system-packages:
	@missing=; for program in $(PROGRAMS); do \
	    PATH="$$PATH:/usr/sbin:/sbin" command -v $$program >/dev/null || missing="$$missing $$program"; \
	done; \
	if [ -n "$$missing" ]; then \
	    if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	        echo "installing packages for the tests:$$missing"; \
	        apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	            apt-get install -qq -y --no-install-recommends $(PACKAGES) >/dev/null || true; \
	    else \
	        echo "make: not installed, so some tests are skipped:$$missing" >&2; \
	    fi; \
	fi

# What tests the layers that have a threshold; the rest would reach nothing more.
MEASURED_LAYERS := format alloc metadata
MEASURED_TESTS  := $(addprefix tests/,format alloc metadata store golden)
# Each layer and each face of the package, without what is marked as slow.
QUICK_TESTS     := $(addprefix tests/,format alloc metadata store drivers api device cli suite)

quick: $(STAMP)  ## The tests to run on every save: under a minute
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow" --hypothesis-profile=quick $(QUICK_TESTS) $(ARGS)

test: $(STAMP) system-packages  ## All tests; the 25 slowest are named
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --durations=25 $(ARGS)

check: static test coverage  ## Everything a change must pass

coverage: $(STAMP)  ## Lines and branches of the layers with a threshold, and what was missed
	@mkdir -p $(dir $(RESULTS)) && rm -f $(RESULTS)
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -q --hypothesis-profile=ci \
	    $(addprefix --cov=blobstore.,$(MEASURED_LAYERS)) --cov-report=json:$(RESULTS) $(MEASURED_TESTS)
	@$(BIN)/python scripts/coverage_gate.py $(RESULTS)

static: format-check lint types layers  ## What is checked without running the code

format: $(STAMP)  ## Rewrite the code in the one format
	@$(BIN)/ruff format $(CODE)
	@$(BIN)/ruff check --ignore-noqa --select I --fix $(CODE)

format-check: $(STAMP)
	@$(BIN)/ruff format --check $(CODE)

lint: $(STAMP)  ## Lint; suppressions in a line do not count
	@$(BIN)/ruff check --ignore-noqa $(CODE)

types: $(STAMP)  ## mypy, strict, also on the tests
	@$(BIN)/mypy $(CODE)

layers: $(STAMP)  ## The direction of imports between the layers
	@$(BIN)/lint-imports --no-logo

crash: $(STAMP)  ## Power failures explored on the simulated disk
	@$(BIN)/python -m tests.proof.crash --states $(STATES)
	@$(BIN)/python -m tests.proof.volume_cuts
	@$(BIN)/python -m tests.proof.receive_cuts

repairs: $(STAMP)  ## Every damage repaired and undone, both cut off at every write, and while being finished
	@$(BIN)/python -m tests.proof.crash --repairs

syscalls: $(STAMP) system-packages  ## The real program's system calls, recorded and cut off
	@$(BIN)/python -m tests.proof.recorded_cuts

sequences: $(STAMP)  ## Every sequence of one to three operations, cut off in a few states each
	@$(BIN)/python -m tests.proof.crash --every-sequence

mutations: $(STAMP)  ## Every flush of the core taken away once: the explorer must miss it
	@$(BIN)/python -m tests.proof.mutation

matrices: $(STAMP)  ## Every cell of the tests' matrices, of which `make test` tries a part
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --every-cell $(addprefix tests/,faults fsck golden) $(ARGS)

races: $(STAMP)  ## Tasks of the core against each other, in RUNS seeded orders
	@$(BIN)/python -m tests.proof.interleavings --runs $(RUNS)

bytes: $(STAMP)  ## Every byte of small stores' metadata set to five values, checksums fixed and not
	@$(BIN)/python -m tests.proof.every_byte --jobs $(JOBS)

corruptor: $(STAMP)  ## Every invariant broken in both layouts: found, repaired, undone
	@$(BIN)/python -m tests.proof.corruptor --run

hostile: $(STAMP)  ## Images made to hurt: an answer or a typed error, in time and memory by their metadata
	@$(BIN)/python -m tests.proof.hostile $(ARGS)

fuzz: $(STAMP)  ## Coverage-guided fuzzing of load, list, read and check, for SECONDS
	@$(BIN)/python -m tests.proof.fuzz --seconds $(SECONDS)

nbd-kills: $(STAMP)  ## An NBD server under load killed with SIGKILL, KILLS times
	@$(BIN)/python -m tests.proof.nbd_kills --kills $(KILLS)

nbd-fuzz: $(STAMP)  ## Coverage-guided fuzzing of what clients send to the NBD server, for SECONDS
	@$(BIN)/python -m tests.proof.nbd_fuzz --seconds $(SECONDS)

rpc-kills: $(STAMP)  ## An RPC server under eight clients killed with SIGKILL, KILLS times
	@BLOBSTORE_RPC_KILLS=$(KILLS) $(BIN)/python -m pytest -q -n 0 tests/rpc/test_server.py -k sigkill

stress: $(STAMP)  ## Eight threads and 1,000 asyncio tasks change stores, STRESS_SECONDS each: equal to their models
	@$(BIN)/python -m tests.proof.stress --seconds $(STRESS_SECONDS)

soak: $(STAMP)  ## A process under random load killed with SIGKILL, KILLS times
	@$(BIN)/python -m tests.proof.soak --kills $(KILLS)

attach-kills: $(STAMP)  ## The process of an attached device killed with SIGKILL, KILLS times; needs root
	@$(BIN)/python -m tests.proof.attach_kills --kills $(KILLS)

vm: $(STAMP)  ## Virtual machines: on a clone over NBD, cut off; with attached NBD devices; needs qemu-system-x86_64
	@$(BIN)/python -m tests.proof.virtual_machine
	@$(BIN)/python -m tests.proof.attach_by_nbd

# --- documents -----------------------------------------------------------------------------

site: $(SITE)  ## The documents as a web site in build/site; a dead link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

$(SITE): $(STAMP)
	@$(BIN)/python -m pip $(INSTALL) --editable '.[site]'
	@touch $@

man: $(STAMP)  ## A man page of each command, in build/man
	@$(BIN)/python scripts/man_pages.py build/man

ceph: $(STAMP) system-packages  ## Stores on a Ceph cluster of one node: contract, locks, kills, RPC, speed beside raw images
	@BLOBSTORE_TEST_CEPH=1 $(BIN)/python -m pytest -n 0 tests/ceph $(ARGS)

# --- what is published -----------------------------------------------------------------------

$(DIST): $(STAMP)
	@$(BIN)/python -m pip $(INSTALL) --editable '.[dist]'
	@touch $@

dist: $(DIST) man  ## The sdist and the wheel in dist, checked
	@rm -rf dist
	@$(BIN)/python -m build --no-isolation --outdir dist .
	@$(BIN)/twine check --strict dist/*

install-check: dist  ## The wheel in an environment that has nothing but pip, and at work there
	@$(BIN)/python scripts/install_check.py dist

# --- measurements --------------------------------------------------------------------------

bench: $(STAMP)  ## Benchmarks next to fio, LMDB, SQLite and plain files; ARGS=--quick for a minute
	@if ! command -v fio >/dev/null; then \
	    if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	        apt-get update -qq && apt-get install -qq -y --no-install-recommends fio; \
	    else \
	        echo "make: without fio its rows are not measured; it is in the system's packages" >&2; \
	    fi; \
	fi
	@$(BIN)/python -m benchmarks $(ARGS)

clean:  ## Remove what was made, except the virtual environment
	@rm -rf build dist htmlcov .coverage .coverage.* .hypothesis .import_linter_cache \
	    .mypy_cache .pytest_cache .ruff_cache
	@find $(CODE) -type d -name __pycache__ -prune -exec rm -rf {} +
