# make test: everything from nothing, then the tests. make quick, make study: the study, small and whole. make docs: the
# site of docs/, in build/site.

export HF_HUB_OFFLINE := 1

PYTHON ?= python3
BIN := .venv/bin

.PHONY: test quick study docs lint clean

test: .venv/ready
	$(BIN)/pytest -n 2 --dist loadfile -m "not gpu and not slow"

quick: .venv/ready
	$(BIN)/distill study run first --quick

study: .venv/ready
	$(BIN)/distill study run first --seeds 0

# Warnings are errors. The variable silences an advertisement of mkdocs-material.
docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Done once, and again when the dependencies change. The stamp is written last: a broken installation is redone.
.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[test]" --constraint constraints.txt
	touch $@

.PHONY: .venv
.venv: .venv/ready

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
