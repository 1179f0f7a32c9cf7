# Each target does its own set-up: a venv in .venv, pinned by constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test test-all lint clean

$(READY): pyproject.toml constraints.txt
	@echo "== Setting up .venv (the first time this downloads PyTorch: several GB)"
	$(PYTHON) scripts/check_python.py
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --constraint constraints.txt -e ".[dev]"
	@touch $(READY)

demo: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/demo.sh

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -m "not slow" --cov --cov-report=term:skip-covered

test-all: lint
	$(BIN)/pytest --cov --cov-report=term:skip-covered
	$(BIN)/python scripts/fuzz_rle.py
	$(BIN)/python scripts/torture.py --kills 24 --places 1

clean:
	rm -rf .venv demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache
