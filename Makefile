# lic_da: 'make help' lists the targets.
PYTHON ?= python3
PY := .venv/bin/python

DOMAINS ?= sketch,comic
QUALITY ?= 3
PILE ?=
GROUPS ?=
QUALITIES ?= 1,2,3,4
CODEC ?= zou2022_n64
CODECS ?= $(if $(filter file,$(origin CODEC)),bmshj2018_factorized_n64,$(CODEC))
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: docs help setup data train sweep test test-slow lint lock pretrain bench

help:  ## list the targets
	@grep -hE '^[a-zA-Z/_%-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | \
	  awk -F '\t' '{printf "  %-14s %s\n", $$1, $$2}'
	@echo "  variables: DOMAINS=$(DOMAINS) QUALITY=$(QUALITY) QUALITIES=$(QUALITIES) CODEC=$(CODEC) PILE= GROUPS= ARGS='Hydra overrides'"

setup: .venv/installed  ## make .venv from requirements.lock

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 13) else \
	  f"lic_da needs Python 3.11 or 3.12, but $(PYTHON) is {v.major}.{v.minor}; use make PYTHON=python3.11")'
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-uv.lock
	$(PY) -m uv pip install --quiet --python $(PY) --require-hashes -r requirements.lock || \
	  $(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@# Bytecode once and for all: where Python may not write it, every start would compile torch anew.
	@$(PY) -m compileall -q -j 0 .venv/lib lic_da >/dev/null 2>&1 || true
	@touch $@

data: setup  ## bring domains to data/: natural, sketch, comic and clipart, or [DOMAINS=…], or DOMAINS=all
	$(PY) -m lic_da.data $(if $(filter file,$(origin DOMAINS)),,$(DOMAINS))

# Where they are not given, the configuration says them, or the pack that is extended.
OVER = $(if $(filter file,$(origin CODEC)),,codec=$(CODEC))
GIVEN = $(OVER) $(if $(filter file,$(origin QUALITY)),,codec.quality=$(QUALITY))

# Groups of images without labels in the place of domains.
GROUPED = $(if $(PILE),'pile="$(PILE)"') $(if $(GROUPS),groups=$(GROUPS)) $(if $(filter file,$(origin DOMAINS)),,'domains=[$(DOMAINS)]')
TRAINED = $(if $(PILE)$(GROUPS),$(GROUPED),'domains=[$(DOMAINS)]')

train: setup  ## train adapters and gate: DOMAINS=sketch,comic or PILE=FOLDER GROUPS=4 [QUALITY=3, or all] [CODEC=…] [ARGS="…"]
	$(PY) -m lic_da.train $(TRAINED) $(GIVEN) $(ARGS)

sweep: setup  ## one run a quality, then BD-rates and a report: DOMAINS=… QUALITIES=1,2,3,4
	$(PY) -m lic_da.train -m 'domains=[$(DOMAINS)]' codec=$(CODEC) codec.quality=$(QUALITIES) $(ARGS)

test: setup  ## run the tests (under 10 minutes on 2 cores)
	$(PY) -m pytest -n 2 --dist worksteal

test-slow: data  ## also the tests that train for minutes or need the images of make data
	$(PY) -m pytest -m "slow or not slow"

lint: setup  ## ruff and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

docs: setup  ## the documentation as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build

lock:  ## resolve requirements.lock anew from pyproject.toml
	$(PY) -m uv pip compile --quiet --python-version 3.11 --all-extras --generate-hashes \
	  --no-emit-index-url --no-header pyproject.toml -o requirements.lock
	grep -A100 '^uv==' requirements.lock | awk 'NR > 1 && /^[a-z]/ {exit} !/^ *#/' > requirements-uv.lock

pretrain: data  ## train a base codec: CODEC=mbt2018_mean_n64, or bmshj2018_factorized_n64 (hours on a CPU; resumes)
	$(PY) -m lic_da.pretrain $(OVER) $(ARGS)

bench: data  ## time starting, an image and folders beside AVIF, WebP, JPEG XL; adapted decoding: CODECS=name,name, or bmshj2018_factorized_n64
	$(PY) -m benchmarks.everyday $(ARGS)
	$(PY) -m benchmarks.decoding --codecs $(CODECS)

experiments/%: data  ## run an experiment, e.g. make experiments/base_codecs
	$(PY) -m experiments.$*.run $(ARGS)
