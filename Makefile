# make demo   set up, train on handwritten digits, sample, likelihoods, report in runs/digits/
# make test   set up, all tests
# make lint   ruff, as pre-commit runs it

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
DEMO := --config configs/digits_vp.py --workdir runs/digits

# Large pages for large arrays: on Linux CPUs a step of a large network takes a tenth less.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: demo test lint clean

demo: $(VENV)/.run
	$(RUN) main.py $(DEMO) --mode train
	$(RUN) main.py $(DEMO) --mode eval
	@echo "Open runs/digits/report.html"

# Two workers, one a core: compilation, of which tests are full, hardly uses a second one. Large pages
# would slow it down by a tenth.
test: $(VENV)/.dev
	GLIBC_TUNABLES= $(RUN) -m pytest -n 2 --dist worksteal

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

$(VENV)/.run: requirements.txt | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements.txt requirements-dev.txt | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "scorefield needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	         "Name one with make PYTHON=python3.11 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "$(PYTHON) has no venv module; on Debian, apt-get install python3-venv."; exit 1; }
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) runs
