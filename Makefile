# make report and make test need python3 (3.11 or newer) and make, nothing else. The first call sets up .venv.

PYTHON ?= python3
BIN := .venv/bin
SETUP := .venv/.complete

.DEFAULT_GOAL := help
.PHONY: help setup report test test-without-avx lab data lint results

help:
	@echo "make report   train and show profile quick, then show overnight and paper;"
	@echo "              PROFILE=smoke|quick|overnight|paper for one of them,"
	@echo "              STUDY=05 for one study, ARGS='--hide-code -p seeds=3' for what deepnets report takes besides"
	@echo "make test     run the tests; ARGS='-k store' for options of pytest"
	@echo "make test-without-avx  run the tests that hold numbers as another processor computes them"
	@echo "make lab      open the notebooks in JupyterLab"
	@echo "make data     check and download the data sets"
	@echo "make lint     check the style"
	@echo "make results  write RESULTS.md anew, from the stored records"

setup: $(SETUP)

# The stamp is written last: a set-up that was interrupted is done again.
$(SETUP): pyproject.toml requirements.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; '$(PYTHON)' is `$(PYTHON) --version 2>&1`. Name another: make PYTHON=python3.12" >&2; \
	  exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt -c constraints.txt
	@touch $@

report: $(SETUP)
	$(BIN)/deepnets report $(STUDY) $(if $(PROFILE),--profile $(PROFILE)) $(ARGS)

test: $(SETUP)
	$(BIN)/python -m pytest -n logical --dist loadfile $(ARGS)

# All but the tests of pages, commands, clusters, downloads and faults, which take long and hold no other numbers.
test-without-avx: export ATEN_CPU_CAPABILITY = default
test-without-avx: export ONEDNN_MAX_CPU_ISA = SSE41
test-without-avx: override ARGS += $(patsubst %,--ignore=tests/%,test_cli.py sweeps/test_cluster.py sweeps/test_faults.py data/test_downloading.py reports)
test-without-avx: test

lab: $(SETUP)
	$(BIN)/python -m jupyterlab notebooks $(ARGS)

data: $(SETUP)
	$(BIN)/deepnets data $(ARGS)

lint: $(SETUP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

results: $(SETUP)
	$(BIN)/deepnets report --profile overnight --train never
	$(BIN)/deepnets report --profile paper --train never
	$(BIN)/deepnets report 08 --profile overnight --train never
	$(BIN)/python -m tools.results
