# make demo and make test do everything on a fresh machine: they build the virtual environment first.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready-dev

.PHONY: setup demo test test-all lint docs clean

$(READY): pyproject.toml constraints.txt setup.py $(wildcard src/gyrostat/recurrent/kernels/csrc/* src/gyrostat/sketch/csrc/* src/gyrostat/_native/*.h)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,dask,onnx]'
	touch $(READY)

setup: $(READY)

demo: $(READY)
	$(BIN)/gyrostat compare digits --models lem,lipschitz,noisy,lstm,gru --seeds 2 --out demo --force

test: $(READY)
	$(BIN)/python -m pytest -n 2 -m "not slow or telling"

test-all: $(READY)
	$(BIN)/python -m pytest -n 2

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf build dist site demo runs .pytest_cache .ruff_cache .hypothesis
