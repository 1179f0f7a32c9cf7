# Each target does its own set-up: a venv in .venv, pinned by constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: notebook demo docs test test-all test-slurm lint clean

$(READY): pyproject.toml constraints.txt
	@echo "== Setting up .venv (the first time this downloads PyTorch: several GB)"
	$(PYTHON) scripts/check_python.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --constraint constraints.txt -e ".[dev]"
	@touch $(READY)

demo: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/demo.sh

# The site, in site/; a warning is an error.
docs: $(READY)
	$(BIN)/sphinx-build -q -n -W --keep-going -b html docs site
	@echo "Open site/index.html"

# Runs docs/notebook.ipynb and stores what it shows.
notebook: $(READY)
	$(BIN)/python scripts/refresh_notebook.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two files of tests at a time: more would not fit beside the engine on a small machine.
test: lint
	$(BIN)/pytest -m "not slow" --numprocesses 2 --dist loadfile

# Installs Slurm and starts it (Debian, as root); without one its tests are skipped.
test-slurm: $(READY)
	scripts/slurm_testbed.sh start
	SLURM_CONF=/var/tmp/gi2nnunet-slurm/slurm.conf $(BIN)/pytest -m slurm; \
	code=$$?; scripts/slurm_testbed.sh stop; exit $$code

test-all: lint test-slurm
	scripts/browser_testbed.sh
	scripts/dicom_testbed.sh
	GI2NNUNET_BROWSER=required $(BIN)/pytest --cov --cov-report=term:skip-covered
	$(BIN)/python scripts/fuzz_rle.py
	$(BIN)/python scripts/roundtrip_rtstruct.py
	$(BIN)/python scripts/other_tools.py --check
	rm -rf build/acceptance
	$(BIN)/python scripts/gpu_acceptance.py --out build/acceptance --no-card --minutes 20
	$(BIN)/python scripts/torture.py --kills 24 --places 1
	$(BIN)/python -m tests.damage_table --only "preprocessed labels" --only checkpoint --only labels

clean:
	rm -rf .venv demo site build *.egg-info .mypy_cache .ruff_cache .pytest_cache
