# Two commands set everything up: `make quickstart`, then `make test`. Everything runs in .venv.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help quickstart install matrix test test-fast test-slow test-large test-inf1 test-neuron test-pi lint format wheels web web-packages test-web benchmarks example-report clean

help:
	@echo "make quickstart   set up .venv and run the main job on a real model"
	@echo "make test         lint and the whole test suite"
	@echo "make test-fast    the tests that need no conversion"
	@echo "make matrix       every architecture in every format, measured: hours; writes docs/support.md"
	@echo "make test-slow    the lanes that take minutes: 100,000 predictions, the oldest engine"
	@echo "make test-large   convert a model of a billion parameters, and watch the memory (10 GB of it, 20 GB of disk, an hour)"
	@echo "make test-neuron  the Neuron contract on an instance with AWS Neuron's own packages, in the python that has them"
	@echo "make test-inf1    finish a compile kit in the torch of Inf1, 1.13.1 (an environment of 3.4 GB, in .cache)"
	@echo "make test-pi      the thin wheel and the agent in an emulated aarch64 Python (150 MB are fetched once; five minutes)"
	@echo "make web          build the TypeScript runtime and the page that measures on a phone (needs Node.js 20)"
	@echo "make test-web     its tests: bundles of every task replayed in a headless Chromium of a phone's size"
	@echo "make lint         ruff and mypy --strict"
	@echo "make format       let ruff format the code"
	@echo "make wheels       build both wheels into dist/"
	@echo "make example-report  measure one bundle four ways and write docs/example-report.html (needs sshd, Chromium, make web)"
	@echo "make benchmarks   measure what benchmarks/RESULTS.md reports (needs the peer environment)"
	@echo "make clean        remove .venv, caches and built files"

install: .venv/installed

# torch first and by its exact pin: anything that drags in another build brings gigabytes of CUDA.
.venv/installed: constraints.txt setup.cfg pyproject.toml runtimes/pyproject.toml
	@echo "setting up .venv with $$($(PYTHON) --version); this takes a minute or two"
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || \
		{ echo "satchel needs Python 3.11 or 3.12: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) setuptools wheel setuptools_scm
	$(PIP) torch==2.13.0
	$(PIP) --no-build-isolation -e './runtimes[onnx,text,audio,video,index,structured]' -e '.[convert,convert-tflite,evaluate,tune,report,dev]'
	$(BIN)/python -m pip check
	@touch $@

quickstart: install
	@$(BIN)/python examples/quickstart.py

# A file at a time on each of two cores: what a file's tests share is made once. Two processes whose linear algebra has
# two threads each wait for one another, ten times as long as the work takes.
test: install lint web-packages
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

test-fast: install
	$(BIN)/python -m pytest -m "not slow" -x tests/test_architecture.py tests/test_device_profiles.py tests/test_bundle.py tests/test_tensors.py tests/test_toolchain.py

# Every architecture in every format: hours. It goes on where it was; at the end docs/support.md is made of benchmarks/matrix/measured.json.
matrix: install
	$(BIN)/python -m benchmarks.matrix

test-slow: install
	$(BIN)/python -m pytest -m "slow and not large and not pi"

test-large: install
	$(BIN)/python -m pytest -m large -rs -s tests/test_large_models.py

# What Inf1 has: Python 3.10 at most, torch 1.13.1 and numpy below 2. That torch is a CUDA build, which does not import
# without these four libraries; the driver and a GPU are not needed.
INF1 := .cache/torch-1.13.1
PYTHON310 ?= $(shell command -v python3.10)

$(INF1)/installed:
	PYENV_VERSION=$${PYENV_VERSION-3.10} $(PYTHON310) -m venv $(INF1)
	$(INF1)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps torch==1.13.1 'numpy<2' \
		typing_extensions nvidia-cublas-cu11==11.10.3.66 nvidia-cuda-nvrtc-cu11==11.7.99 \
		nvidia-cuda-runtime-cu11==11.7.99 nvidia-cudnn-cu11==8.5.0.96
	@touch $@

test-inf1: install $(INF1)/installed
	SATCHEL_TORCH_1_13=$(INF1)/bin/python $(BIN)/python -m pytest -m slow tests/test_kit.py -k torch_1_13_1

# On an instance, in the environment of the vendor's packages with satchel and pytest in it: make test-neuron PYTHON=python3.11
test-neuron:
	$(PYTHON) -m pytest -m neuron -rs tests/test_neuron.py

# A Raspberry Pi's Python and engines by emulation; skipped in words where that cannot be, as without a network.
test-pi: install
	$(BIN)/python -m pytest -m pi -rs tests/test_emulated_pi.py

WEB := runtimes/web

$(WEB)/node_modules/installed: $(WEB)/package-lock.json
	@command -v npm > /dev/null || { echo "the TypeScript runtime needs Node.js 20 or later: https://nodejs.org"; exit 1; }
	npm --prefix $(WEB) ci --no-progress
	@touch $@

# For the tests that need no browser; without Node.js they are skipped, and say so.
web-packages:
	@command -v npm > /dev/null && $(MAKE) --no-print-directory $(WEB)/node_modules/installed || \
		echo "without npm, the TypeScript runtime is not tested"

web: $(WEB)/node_modules/installed
	npm --prefix $(WEB) run build

# Bundles are converted and answered by the Python runtime first, and kept in .cache/web. Without Chromium those tests are skipped
# and say so.
test-web: install $(WEB)/node_modules/installed
	@command -v chromium > /dev/null || test -n "$$CHROMIUM" || test "$$(id -u)" != 0 || \
		{ apt-get update -qq && apt-get install -y -qq chromium; } || echo "Chromium could not be installed"
	npm --prefix $(WEB) test

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.9 -p satchel_runtimes

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# docs/example-report.html: this machine, the same behind an sshd, an emulated aarch64, and a browser of a phone's size.
example-report: quickstart
	$(BIN)/python -m tests.example_report

# The page that measures in a browser goes along where it was built (make web).
wheels: install
	rm -rf benchmarks/satchel_benchmarks/page
	if [ -f runtimes/web/dist/bench/index.html ]; then cp -R runtimes/web/dist/bench benchmarks/satchel_benchmarks/page; fi
	$(BIN)/python -m build --no-isolation --wheel --outdir dist .
	$(BIN)/python -m build --no-isolation --wheel --outdir dist runtimes

benchmarks: install
	sh benchmarks/peers/make_env.sh optimum
	$(BIN)/python benchmarks/predict_overhead.py
	$(BIN)/python benchmarks/int8_speed.py
	$(BIN)/python benchmarks/tflite_speed.py
	$(BIN)/python benchmarks/quantize_minilm.py
	$(BIN)/python benchmarks/quantize_minilm_tflite.py
	$(BIN)/python benchmarks/efficientnet_int8.py
	$(BIN)/python benchmarks/ffn_half.py
	$(BIN)/python benchmarks/reuters.py
	$(BIN)/python benchmarks/digits.py
	$(BIN)/python benchmarks/cold_start.py
	$(BIN)/python benchmarks/convert_tflite.py
	$(BIN)/python benchmarks/convert_vs_optimum.py
	$(BIN)/python benchmarks/task_speed.py
	$(BIN)/python benchmarks/tiny_conversion.py

clean:
	rm -rf $(WEB)/node_modules $(WEB)/dist examples/phone-demo/dist
	rm -rf .venv .cache build dist benchmarks/satchel_benchmarks/page .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name '*.egg-info' -type d -prune -exec rm -rf {} +
