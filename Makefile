# make demo   a first answer about a picture, a page and a clip       make test   the whole gate, as in CI
# make check  everything but the tests                                make fix    format and mend what a tool can
# make bench  the figures of docs/ again                              make clean  remove what the tools leave behind

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet

# Two torch threads that spin against each other are slower than one; tests are many small operations.
TEST_ENV := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

.PHONY: demo test check fix bench clean install dev
.DEFAULT_GOAL := demo

# --- installing: a stamp per set, so that a second run costs nothing -------------------------------------------------

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "minicpmv needs Python 3.11 or newer; say which with: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.torch: constraints.txt | $(BIN)/python
	$(PIP) install --prefer-binary "$$(grep '^torch==' constraints.txt)"
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml constraints.txt
	$(PIP) install --prefer-binary -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(PIP) install --prefer-binary -c constraints.txt -e '.[dev]'
	@touch $@

install: $(VENV)/.installed
dev: $(VENV)/.dev

# --- using -----------------------------------------------------------------------------------------------------------

demo: $(VENV)/.installed
	@$(BIN)/minicpmv ask examples/sign.png "What is written in the picture?"
	@$(BIN)/minicpmv ask examples/note.pdf "What is written on the page?"
	@$(BIN)/minicpmv ask examples/clip.mp4 "Which colour appears first?"

# --- the gate --------------------------------------------------------------------------------------------------------

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(TEST_ENV) $(BIN)/python -m pytest

fix: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev
	@for script in preprocess vision decode load startup train data serve products keeping muon video; do echo "== bench/$$script.py"; $(BIN)/python "bench/$$script.py" || exit 1; done

clean:
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
