# make demo: fidelity report on real clips.  make test: all tests.  Both make .venv first; a second run reuses it.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test fuzz lint types docs wheel clean

demo: $(VENV)/.demo
	$(BIN)/diffcodec fidelity --out out

test: $(VENV)/.dev
	$(BIN)/python -m pytest

# random layers, mixtures, damaged files, real encodes, kills: make fuzz SEED=7 MINUTES=10
SEED ?= 0
MINUTES ?= 60
fuzz: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.fuzz --seed $(SEED) --minutes $(MINUTES)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

docs: $(VENV)/.dev
	$(BIN)/sphinx-build -W --keep-going -q -b html docs out/docs

wheel: $(VENV)/.dev
	rm -rf dist
	$(BIN)/python -m build --wheel --outdir dist .
	$(BIN)/python tests/wheel_check.py dist $(TORCH)

# torch first and pinned: a later requirement then finds it installed and does not fetch another build
$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "diffcodec needs Python 3.10 or newer, this is %d.%d" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check "$(TORCH)" "numpy>=1.26"
	@touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install -q --disable-pip-version-check -e ".[demo]"
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install -q --disable-pip-version-check -e ".[dev]"
	@touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) out dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
