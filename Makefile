# Everything here starts from a bare machine: the first target that needs it makes .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup lint test slow demo picture clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,demo]"
	touch $@

lint: setup
	$(BIN)/ruff check src tests benchmarks docs
	$(BIN)/ruff format --check src tests benchmarks docs
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -n 2 -m "not slow and not gpu"

slow: setup
	$(BIN)/pytest -m slow

demo: setup
	$(BIN)/hmmoe compare recipes/easy_vqa.yaml --methods frozen,lora,hmmoe --seeds 3 --folder runs/demo --out runs/demo/result.json

picture: setup
	$(BIN)/python docs/draw_overview.py

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache
