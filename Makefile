# Two commands set everything up: `make quickstart`, then `make test`. Everything runs in .venv.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help quickstart install test test-fast test-slow test-py39 lint format wheels benchmarks clean

help:
	@echo "make quickstart   set up .venv and run the main job on a real model"
	@echo "make test         lint and the whole test suite"
	@echo "make test-fast    the tests that need no conversion"
	@echo "make test-slow    the lanes that take minutes: 100,000 predictions, the oldest engine"
	@echo "make lint         ruff and mypy --strict"
	@echo "make format       let ruff format the code"
	@echo "make wheels       build both wheels into dist/"
	@echo "make benchmarks   measure what benchmarks/RESULTS.md reports (needs the peer environment)"
	@echo "make clean        remove .venv, caches and built files"

install: .venv/installed

# torch first and by its exact pin: anything that drags in another build brings gigabytes of CUDA.
.venv/installed: constraints.txt setup.cfg pyproject.toml runtimes/pyproject.toml
	@echo "setting up .venv with $$($(PYTHON) --version); this takes a minute or two"
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || \
		{ echo "satchel needs Python 3.11 or 3.12: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) setuptools wheel
	$(PIP) torch==2.13.0
	$(PIP) --no-build-isolation -e './runtimes[onnx,text]' -e '.[convert,convert-tflite,report,dev]'
	$(BIN)/python -m pip check
	@touch $@

quickstart: install
	@$(BIN)/python examples/quickstart.py

test: install lint
	$(BIN)/python -m pytest -m "not slow"

test-fast: install
	$(BIN)/python -m pytest -m "not slow" -x tests/test_architecture.py tests/test_device_profiles.py tests/test_bundle.py tests/test_tensors.py tests/test_toolchain.py

test-slow: install
	$(BIN)/python -m pytest -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.9 -p satchel_runtimes

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheels: install
	$(BIN)/python -m build --no-isolation --wheel --outdir dist .
	$(BIN)/python -m build --no-isolation --wheel --outdir dist runtimes

benchmarks: install
	sh benchmarks/peers/make_env.sh optimum
	$(BIN)/python benchmarks/predict_overhead.py
	$(BIN)/python benchmarks/int8_speed.py
	$(BIN)/python benchmarks/cold_start.py
	$(BIN)/python benchmarks/convert_vs_optimum.py

clean:
	rm -rf .venv .cache build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name '*.egg-info' -type d -prune -exec rm -rf {} +
