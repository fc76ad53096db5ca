# Two commands on a machine that has Python 3.11 or later, pip, make and git: `make run` and `make test`.
.PHONY: run test lint soak clean

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

run: $(READY)
	$(BIN)/hillclimb run matrices/first.toml

test: $(READY) lint
	$(BIN)/pytest -n 2 --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A quarter of an hour of faults, then the rest in peace; SOAK="--minutes 3" for less of it.
soak: $(READY)
	$(BIN)/python -m tests.soak $(SOAK)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv
