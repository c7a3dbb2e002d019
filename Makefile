# make demo   set up and run the whole pipeline on the embedded default
# make test   set up and run the test suite
# make docs   build the guides and the API's pages to build/docs, with tools of their own
# make dag    draw the nodes of a configuration (CONFIG=...), done or not, beside its links
# make test-processors   the numeric tests as on processors with fewer instructions, with 1 to 4 threads
# make test-pythons   the tests that need no torch, under every Python of this machine that the package supports
# make test-slurm   install a small Slurm, as root on Debian, and run the workflow through it
# make lint   formatting, types, workflow style
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
# The newest that runs and can make an environment: pyenv has shims that do not, Debian packages without venv.
PYTHON ?= $(or $(shell for python in python3.13 python3.12 python3.11; do \
  if $$python -c 'import ensurepip, venv' > /dev/null 2>&1; then echo $$python; break; fi; done),$(error \
  longrope needs Python 3.11, 3.12 or 3.13 with its venv module, and none runs here: install one, or name it with PYTHON=))
VENV ?= .venv
READY := $(VENV)/ready
RUN := $(VENV)/bin/python -m
# A line for each job on the terminal; Snakemake's own pages are in .snakemake/log.
SNAKEMAKE = PYTHONPATH="$(CURDIR)/workflow/loggers$${PYTHONPATH:+:$$PYTHONPATH}" \
  $(RUN) snakemake --cores all --logger lines
CONFIG ?= config/config.yaml
# Rules call the interpreter that runs Snakemake; scripts find theirs through PATH.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# Snakemake and the hub's library keep files below the home, which may be read-only or not there.
ifneq ($(shell folder="$${XDG_CACHE_HOME:-$$HOME/.cache}"; { mkdir -p "$$folder" && [ -w "$$folder" ]; } 2> /dev/null || echo no),)
export XDG_CACHE_HOME := $(CURDIR)/.snakemake/cache
endif
export OMP_WAIT_POLICY := PASSIVE
export TOKENIZERS_PARALLELISM := true

# Test files whose numbers depend on how the processor rounds and on the number of threads.
NUMERIC := $(patsubst %,tests/unit/%.py,models/test_attention_choice search/test_auto tasks/test_benchmarks \
  rope/test_foreign_factors models/test_gradient search/test_longrope2 training/test_lora rope/test_methods \
  training/test_mixed_window models/test_models search/test_needles training/test_packing \
  training/test_parallel_training training/test_position_skipping models/test_rotary models/test_scoring \
  search/test_search tasks/test_tasks training/test_tensorboard training/test_training \
  training/test_training_ends training/test_watching)
# ATEN_CPU_CAPABILITY, ONEDNN_MAX_CPU_ISA and threads; `best` is what the machine has.
PROCESSORS ?= default:AVX2:2 avx2:AVX512_CORE:4 avx512:AVX512_CORE_BF16:1 best:best:3

.PHONY: help setup demo docs dag test test-processors test-pythons test-slurm lint format lock clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

setup: $(READY)

$(READY): requirements/lock.txt pyproject.toml
	$(PYTHON) -m venv "$(VENV)"
	$(RUN) pip install --quiet --disable-pip-version-check -r requirements/lock.txt
	$(RUN) pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch "$(READY)"

# The report is whole or not there, and never another configuration's.
demo: $(READY)
	@$(SNAKEMAKE) --configfile "$(CONFIG)"
	@folder="$$($(VENV)/bin/python workflow/scripts/print_report_folder.py --config "$(CONFIG)")"; \
	if [ ! -f "$$folder/report.html" ]; then \
	  $(SNAKEMAKE) --configfile "$(CONFIG)" --report "$$folder/.report.html"; \
	  mv "$$folder/.report.html" "$$folder/report.html"; fi; \
	ln -sfn "reports/$${folder##*/}/report.html" "$${folder%/reports/*}/report.html"
	@$(VENV)/bin/python workflow/scripts/print_results.py --config "$(CONFIG)"

dag: $(READY)
	@$(VENV)/bin/python workflow/scripts/plot_dag.py --config "$(CONFIG)"

docs: .venv-docs/ready
	.venv-docs/bin/mkdocs build

.venv-docs/ready: requirements/docs.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/docs.txt
	@touch $@

# One thread each: two test processes share two cores.
test: $(READY)
	OMP_NUM_THREADS=1 $(RUN) pytest -n 2 --dist loadfile

test-processors: $(READY)
	@failed=; for setting in $(PROCESSORS); do \
	  IFS=: read -r aten onednn threads <<< "$$setting"; \
	  echo "ATEN_CPU_CAPABILITY=$$aten ONEDNN_MAX_CPU_ISA=$$onednn, $$threads threads"; \
	  set -- OMP_NUM_THREADS=$$threads MKL_NUM_THREADS=$$threads; \
	  [ $$aten = best ] || set -- "$$@" ATEN_CPU_CAPABILITY=$$aten; \
	  [ $$onednn = best ] || set -- "$$@" ONEDNN_MAX_CPU_ISA=$$onednn; \
	  env "$$@" $(RUN) pytest -q $(NUMERIC) || failed="$$failed $$setting"; done; \
	[ -z "$$failed" ] || { echo "failed under:$$failed"; exit 1; }

test-pythons:
	@$(PYTHON) tests/helpers/pythons.py

# First of all what says that they cannot run here.
test-slurm:
	@if tests/slurm/prepare; then $(MAKE) --no-print-directory setup; \
	  LONGROPE_TEST_SLURM=1 OMP_NUM_THREADS=1 $(RUN) pytest tests/slurm --durations=15; fi

lint: $(READY)
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) snakefmt --check Snakefile rules workflow/Snakefile
	$(RUN) snakemake --lint --configfile config/config.yaml

format: $(READY)
	$(RUN) ruff check --fix .
	$(RUN) ruff format .
	$(RUN) snakefmt Snakefile rules workflow/Snakefile

lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet '.[train,cluster,eval,workflow,dev]' 'setuptools==80.9.0'
	( echo '# Everything pinned; made by `make lock` from pyproject.toml.' \
	  '# A CPU or a GPU build of torch both satisfy it.'; \
	  .venv-lock/bin/python -m pip freeze --all --exclude longrope --exclude pip \
	  | sed 's/+cpu//' ) > requirements/lock.txt
	$(PYTHON) -m venv --clear .venv-lock
	$(PYTHON) -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
	  print(*project['optional-dependencies']['docs'], sep='\n')" \
	  | .venv-lock/bin/python -m pip install --quiet -r /dev/stdin
	( echo '# Everything that `make docs` needs, pinned; made by `make lock` from the extra docs of pyproject.toml.'; \
	  .venv-lock/bin/python -m pip freeze ) > requirements/docs.txt
	rm -r .venv-lock

clean:
	rm -rf .venv .venv-* .snakemake logs
