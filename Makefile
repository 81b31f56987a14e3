# The first command trains CrIBo on the embedded scenes, the second passes the tests; both set up all they need.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test unit clean

train: .venv/installed
	$(BIN)/python -m sslkit.launch --gin gin/cribo.gin

test: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

unit: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

clean:
	rm -rf .venv
