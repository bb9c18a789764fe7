# make clip    generate out/clip.mp4 from a text with the included model
# make test    style, types and tests
# make docs    build the documentation, out/site/index.html; warnings are errors
# make wheel   build sdist and wheel, and test the wheel in a clean environment
# make lowest  fast tests with the lowest supported versions of the dependencies
#
# Each target sets up .venv on first use. Only Python 3.11 or newer is required.
# To install the small CPU build of torch instead of the CUDA build:
#   make clip PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: clip test docs wheel lowest lint format clean

clip: $(READY)
	$(BIN)/kinetophone generate "a drumstick hits a metal bowl three times" -o out/clip.mp4

# One thread per process, because the tests run in two processes and more threads than cores are slower. All tests of
# a file run in the same process, so that its fixtures are created once. The slowest files come first (tests/conftest.py).
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

docs: $(READY)
	$(BIN)/mkdocs build --strict --quiet

# The wheel is built from the sdist, which tests both. The clip is generated outside the clone, so that only the
# installed wheel can be imported.
wheel: $(READY)
	rm -rf out/dist out/wheel
	$(BIN)/python -m build --no-isolation --outdir out/dist
	$(PYTHON) -m venv out/wheel
	out/wheel/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	out/wheel/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r requirements-torch.txt
	out/wheel/bin/python -m pip install --quiet --disable-pip-version-check --no-index out/dist/*.whl
	place=$$(mktemp -d) && cd $$place && test -z "$$PYTHONPATH" \
		&& $(CURDIR)/out/wheel/bin/kinetophone generate "a drumstick hits a metal bowl" -o clip.mp4 --steps 2 \
		&& test -s clip.mp4 && rm -r $$place

# Deprecation warnings of old versions are ignored.
lowest: requirements-lowest.txt requirements-torch.txt pyproject.toml
	rm -rf out/lowest
	$(PYTHON) -m venv out/lowest
	out/lowest/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-lowest.txt
	out/lowest/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r requirements-torch.txt
	out/lowest/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	OMP_NUM_THREADS=1 out/lowest/bin/python -m pytest -q -n 2 -W ignore::DeprecationWarning -W ignore::FutureWarning \
		tests/test_text.py tests/media tests/bases tests/hub tests/tasks tests/diffusion tests/coupling

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(READY): requirements.lock requirements-torch.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "kinetophone needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V 2>&1); try: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r requirements-torch.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

clean:
	rm -rf $(VENV) out .pytest_cache .mypy_cache .ruff_cache
