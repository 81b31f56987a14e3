# The first command trains CrIBo on the embedded scenes, the second passes the tests; both set up all they need.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test unit slurm clean

train: .venv/installed
	$(BIN)/python -m sslkit.launch --gin gin/cribo.gin

test: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

unit: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow"

# Debian packages for the tests on a real Slurm, which are skipped without
slurm:
	@missing=$$($(PYTHON) -c 'from tests.slurm import missing_packages; print(*missing_packages())') || exit; \
	if [ -z "$$missing" ]; then \
		echo "Slurm is installed"; \
	elif ! command -v apt-get >/dev/null || [ "$$(id -u)" != 0 ]; then \
		echo "Slurm is not installed ($$missing); this needs apt-get and root, its tests are skipped"; \
	elif export DEBIAN_FRONTEND=noninteractive; \
		{ apt-get update && apt-get install --yes --no-install-recommends $$missing; } >/dev/null 2>&1; then \
		echo "Slurm is installed now: $$missing"; \
	else \
		echo "Slurm could not be installed ($$missing); its tests are skipped"; \
	fi

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

clean:
	rm -rf .venv
