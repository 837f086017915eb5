PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
CORES  ?= 2

.PHONY: demo test check

# Sets up and runs the default study on a generated phantom.
demo: $(BIN)/.ready
	$(BIN)/snakemake --cores $(CORES)
	@echo "The answer: results/phantom/report.html"

test: $(BIN)/.ready
	$(BIN)/python -m pytest $(PYTEST)

check: $(BIN)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check .
	$(BIN)/snakemake --lint
	$(BIN)/snakemake -n --quiet

$(BIN)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -e ".[dev]"
	touch $@
