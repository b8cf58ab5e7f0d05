# The two commands of a newcomer: `make demo` and `make test`.
VENV := .venv
PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint bench install

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(PYTHON) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(INSTALLED)

demo: $(INSTALLED)
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" bash demo.sh

test: $(INSTALLED)
	$(PYTHON) -m pytest $(PYTEST_OPTIONS)

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# takes hours; the results go to benchmarks/RESULTS.md
bench: $(INSTALLED)
	$(PYTHON) benchmarks/ups_vs_fno.py
	$(PYTHON) benchmarks/tpe_vs_random.py
