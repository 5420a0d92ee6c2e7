PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test test-torch sanitize fuzz lint format types docs wheel bench clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20
	@echo "All of them make .venv first; a second run reuses it. PYTHON= and TORCH= say which to use."

demo: $(VENV)/.demo ## fidelity report on real clips, into out/
	$(BIN)/diffcodec fidelity --out out

test: $(VENV)/.dev ## all tests
	$(BIN)/python -m pytest

test-torch: $(VENV)/.dev ## codecs and contract without native code
	DIFFCODEC_NATIVE=off $(BIN)/python -m pytest tests/test_contract.py tests/h264 tests/jpeg

# The operations' tests on native code that checks its memory and its arithmetic
SANITIZED := build/sanitize/libdiffcodec_native.so
sanitize: $(VENV)/.dev ## native code under AddressSanitizer and UndefinedBehaviorSanitizer
	$(BIN)/cmake -S . -B build/sanitize -DDIFFCODEC_SANITIZE=ON > /dev/null
	$(BIN)/cmake --build build/sanitize --parallel
	for isa in base $(shell grep -qs avx2 /proc/cpuinfo && echo avx2); do \
		LD_PRELOAD=$$($${CXX:-c++} -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 DIFFCODEC_NATIVE_LIBRARY=$(SANITIZED) DIFFCODEC_NATIVE=$$isa \
		OMP_NUM_THREADS=2 $(BIN)/python -m pytest -p no:cacheprovider tests/ops/test_ops.py -k "like_the_reference and native" || exit 1; \
	done

# make fuzz SEED=7 MINUTES=10
SEED ?= 0
MINUTES ?= 60
fuzz: $(VENV)/.dev ## random layers, mixtures, damaged files, real encodes, kills: SEED=0 MINUTES=60
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.fuzz --seed $(SEED) --minutes $(MINUTES)

lint: $(VENV)/.dev ## ruff, and that everything is formatted
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.dev ## what ruff can mend, mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.dev ## mypy
	$(BIN)/mypy

docs: $(VENV)/.dev ## the manual, into out/docs
	$(BIN)/sphinx-build -W -E --keep-going -q -b html docs out/docs

wheel: $(VENV)/.dev ## build it, with and without a compiler, use it in an empty environment, and type-check code that uses it
	rm -rf dist
	$(BIN)/python -m build --wheel --outdir dist .
	CXX=/bin/false $(BIN)/python -m build --wheel --outdir dist/without-compiler .
	$(BIN)/python tests/wheel_check.py dist $(TORCH)

bench: $(VENV)/.dev ## every operation timed on every backend: ONLY=part of a name
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.ops --only "$(ONLY)"

# torch first and pinned: a later requirement then finds it installed and does not fetch another build
$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "diffcodec needs Python 3.10 or newer, this is %d.%d" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check "$(TORCH)" "numpy>=1.26"
	@touch $@

NATIVE := CMakeLists.txt $(wildcard diffcodec/ops/*/native.cpp diffcodec/ops/*/*.h diffcodec/ops/common/native/*)

$(VENV)/.demo: $(VENV)/.torch pyproject.toml $(NATIVE)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e ".[demo]"
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml $(NATIVE)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e ".[dev]"
	@touch $@ $(VENV)/.demo

clean: ## remove what was built
	rm -rf $(VENV) out dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
