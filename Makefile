# The two commands of a newcomer: `make demo` and `make test`.
VENV := .venv
PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint bench pictures install

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(PYTHON) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(INSTALLED)

demo: data/demo.h5
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" bash demo.sh

data/demo.h5: $(INSTALLED)
	$(VENV)/bin/ups data generate burgers --nu 0.01 --trajectories 224 --cells 64 --frames 20 --dt 0.05 --oversample 4 --out $@

# in their own order: files of few tests are the long ones, and would come last
test: $(INSTALLED)
	$(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_OPTIONS)

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# of the README, from the study of `make demo`
pictures: $(INSTALLED)
	$(PYTHON) docs/pictures.py runs/demo

# several hours on two cores; the results go to benchmarks/RESULTS.md
bench: data/demo.h5
	$(PYTHON) benchmarks/first_report.py
	$(PYTHON) benchmarks/nu_table.py
	$(PYTHON) benchmarks/stages.py
	$(PYTHON) benchmarks/ttc.py
	$(PYTHON) benchmarks/ablations.py
	$(PYTHON) benchmarks/inverse_losses.py
	$(PYTHON) benchmarks/train_overhead.py
	$(PYTHON) benchmarks/ups_vs_fno.py --seconds 200 --tune-seconds 30
	$(PYTHON) benchmarks/ups_vs_fno.py --nu 0.001 --models ups fno_frame --seconds 120 --tune-seconds 30
	$(PYTHON) benchmarks/search_cost.py
	$(PYTHON) benchmarks/search_overhead.py
	$(PYTHON) benchmarks/faults.py
	$(PYTHON) benchmarks/soak.py
	$(PYTHON) benchmarks/soak.py --steps 1600 --seconds 1800
	$(PYTHON) benchmarks/report_page.py
	$(PYTHON) benchmarks/ddp.py
	$(PYTHON) benchmarks/give_back.py
	$(PYTHON) benchmarks/tpe_vs_random.py --trials 40 --override stages.operator.epochs=8
