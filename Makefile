# The front door. `make demo` and `make test` set up everything they need; PYTHON and VENV can be overridden.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(shell sed -n 's/^\(pip==[^ ]*\).*/\1/p' constraints.txt)
TORCH := $(shell sed -n 's/^\(torch==[^ ]*\).*/\1/p' constraints.txt)

.PHONY: install demo test lint docs tree build-toy clean

install: $(VENV)/.installed

# A pip that resolves in a third of the time of the one Python 3.11 brings, then torch by its pinned version, so that a CPU
# build is kept where the machine offers one.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12), (3, 13)) and "This needs Python 3.11, 3.12 or 3.13, \
	found " + sys.version.split()[0] + ". Say which one: make demo PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP)
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/em demo

test: install
	$(BIN)/python -m pytest -n 3 --dist worksteal

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Writes the tree in docs/architecture.md again, from the first sentence of every file.
tree: install
	$(BIN)/python -m tests.support.house

# The docs site, in site/, with every link checked.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# Rebuilds the toy models and their training data (about 3 minutes on an H100 with DEVICE=cuda, hours on a laptop).
DEVICE ?= cpu
build-toy: install
	$(BIN)/python -m em_tasks.trainers.toy.build --out trainers/toy/models --device $(DEVICE)
	$(BIN)/python -m em_tasks.trainers.toy.advice --out datasets/toy

clean:
	rm -rf $(VENV) demo report imported
