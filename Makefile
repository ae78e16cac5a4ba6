# make generate PROMPT="a colorful parrot"   make test   make lint   make wheel   make clean
PROMPT ?= a colorful parrot
OUT ?= out.png
ARGS ?=
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
export PROMPT OUT

.PHONY: help generate test lint format wheel clean

help:
	@head -1 Makefile | cut -c3-

generate: $(VENV)/.base
	@$(BIN)/miaobi generate --output "$$OUT" $(ARGS) -- "$$PROMPT"

test: lint
	$(BIN)/python -m pytest -m "not slow"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict src

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(VENV)/.base
	$(BIN)/python -m pip --disable-pip-version-check wheel --quiet --no-deps --wheel-dir dist .
	@ls -l dist/*.whl

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Miaobi needs Python 3.11 or newer; give one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	    { echo "no virtual environment; on Debian and Ubuntu: apt install python3-venv"; exit 1; }

$(VENV)/.base: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV), once"
	@$(PIP) --no-compile --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) with what training and tests need, once"
	@$(PIP) --editable ".[dev]"
	@$(PIP) --no-deps spandrel einops  # without torchvision, which has no build beside torch's CPU one
	@touch $@ $(VENV)/.base
