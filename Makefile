# Everything on a fresh machine: `make demo` runs the main job, `make test` passes the tests. Each sets up what it needs.
PYTHON ?= python3
BIN := .venv/bin
# The networks here are tiny: more threads in each process cost more than they bring, above all on a busy machine.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test check docs fuzz lock clean

# Synthetic voices, or your own recordings: make demo MRL_DATA=folder (one subfolder per speaker).
demo: .venv/ready
	$(BIN)/mrl demo --output demo $(if $(MRL_DATA),--data "$(MRL_DATA)")

test: .venv/ready check
	$(BIN)/python -m pytest -n 2 --dist loadscope

# More hostile files for every reader than the tests have, from seeds of your own: make fuzz FUZZ_CASES=50000 FUZZ_SEED=7.
FUZZ_CASES ?= 20000
FUZZ_SEED ?= 1
fuzz: .venv/ready
	MRL_FUZZ_CASES=$(FUZZ_CASES) MRL_FUZZ_SEED=$(FUZZ_SEED) $(BIN)/python -m pytest -s -q tests/hostile/test_fuzz.py

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Everything but PyTorch by hash, then PyTorch by version, see requirements-torch.lock.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
.venv/ready: requirements.lock requirements-torch.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP) --no-deps --require-hashes -r requirements.lock
	$(PIP) -r requirements-torch.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

# What the pages take from elsewhere: help texts, tables and the picture of the README.
docs: .venv/ready
	$(BIN)/python -m docs.generate_command_line
	$(BIN)/python -m docs.readme_figures
	$(BIN)/python -m benchmarks.study.page docs/appendix/accuracy-study.md docs/explanation/strong-network.md

# Needs pip-tools, and Python 3.11, for whose packages the lock is.
lock:
	pip-compile --quiet --generate-hashes --strip-extras --extra dev --all-build-deps --unsafe-package torch --no-header \
		--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --constraint requirements-torch.lock \
		--output-file requirements.lock pyproject.toml
	sed -i "1i # Every package but PyTorch (requirements-torch.lock) by version and hash, for pip install --require-hashes; made by make lock." requirements.lock

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache demo runs
