# Everything a contributor needs. Only make and a Python of 3.11 or newer must be there:
#   make test                                 the tests, in a fresh .venv
#   make quick                                those of the inner loop, in one process
#   make test PYTEST_ARGS=tests/linalg        some of them, in one process
#   make test PYTHON=/path/to/python3.11      with another interpreter

PYTHON      ?= python3
VENV        ?= .venv
PYTEST_ARGS ?= -n 2 --dist worksteal
PYTHONS     ?= python3.11 python3.12 python3.13
# The compilers of TPUs and GPUs need Python 3.12 or newer.
ACCEL_PYTHON ?= python3.12
ACCEL_ARGS  ?=
QUALITY_ARGS ?=
GPU_ARGS    ?=
GPU_TESTS   ?= -p no:benchmark tests/linalg tests/roots tests/orthogonal tests/statistics tests/parity/test_golden.py
QUICK_TESTS ?= tests/linalg tests/blocks tests/statistics tests/test_architecture.py tests/test_package.py
DIST_TESTS  ?= tests/test_package.py tests/test_architecture.py tests/test_documents.py

BIN     := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PYTEST  := OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest
PINS    := pyproject.toml constraints.txt

.PHONY: help venv demo test quick test-slow test-all lint format docs docs-check bench bench-smoke quality accelerators accelerators-cuda \
        accel-python gpu dist dist-check check clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile

venv: $(VENV)/.base  ## build .venv with the tested versions of all that tests and examples need

demo: venv  ## train a small model with precond
	$(BIN)/python examples/demo.py

test: venv  ## run the tests, but for the slow ones
	$(PYTEST) $(PYTEST_ARGS)

quick: venv  ## run the tests of the inner loop, in one process and under 3 minutes
	$(PYTEST) $(QUICK_TESTS)

test-slow: venv  ## run the slow tests, and those that draw their examples with five times as many
	$(PYTEST) -m "slow or hypothesis" --hypothesis-profile thorough $(PYTEST_ARGS)

# Each Python has a venv of its own. A name that does not run (as a pyenv shim may not) counts as absent.
test-all:  ## run the tests with each of $(PYTHONS) that is there
	@failed= skipped=; \
	for python in $(PYTHONS); do \
	  if version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null); then \
	    echo "== Python $$version"; \
	    $(MAKE) test PYTHON=$$python VENV=.venv-$$version || failed="$$failed $$python"; \
	  else skipped="$$skipped $$python"; fi; \
	done; \
	echo "== skipped, for want of an interpreter:$${skipped:- none}"; \
	echo "== failed:$${failed:- none}"; \
	test -z "$$failed"

lint: $(VENV)/.lint  ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/.lint  ## mend style and format as far as the tools can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint docs-check dist-check  ## check all that continuous integration checks beside the tests

docs: $(VENV)/.docs  ## build the documentation into site/; any warning, or a page that needs a network, is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-check: docs  ## look at the built site in a headless Chromium, if there is one
	$(PYTEST) -m site -rs tests/site

# These ask the compiler of a TPU, which is in .venv-tpu.
ON_TPU := $(addprefix benchmarks/,accelerators.py moving.py gram.py)

# The peers live apart, so that the tests never see them. Compilers of other machines have targets of their own.
bench:  ## run every benchmark of this machine
	@$(MAKE) .venv-bench/.benchmarks VENV=.venv-bench
	@for script in $(filter-out $(ON_TPU),$(wildcard benchmarks/*.py)); do \
	  echo "== $$script"; OPENBLAS_NUM_THREADS=1 .venv-bench/bin/python "$$script" || exit 1; \
	done

# Each benchmark at its smallest, so that none breaks unnoticed. What it writes goes to build/.
SMOKE := "step.py --layers 1 --steps 2" "compile.py --layers 1 --rounds 1" "roots.py --sizes 64 --repeats 1" \
         "kfac.py --batch 8" "many.py --shapes 2" "scaling.py --layers 1" "host.py --period 10"

bench-smoke:  ## run every benchmark for some seconds, to see that it works
	@$(MAKE) .venv-bench/.benchmarks VENV=.venv-bench
	@for run in $(SMOKE); do \
	  echo "== $$run"; OPENBLAS_NUM_THREADS=1 BENCH_OUTPUT=build/bench .venv-bench/bin/python benchmarks/$$run || exit 1; \
	done
	OPENBLAS_NUM_THREADS=1 .venv-bench/bin/python -m benchmarks.quality --quick --optimizers adamw shampoo \
	  --output build/bench/quality

quality:  ## train eight small tasks with every optimizer, as far as it is not done; QUALITY_ARGS="--minutes 9" stops
	@$(MAKE) .venv-bench/.benchmarks VENV=.venv-bench
	OPENBLAS_NUM_THREADS=1 .venv-bench/bin/python -m benchmarks.quality $(QUALITY_ARGS)
	.venv-bench/bin/python -m benchmarks.quality --draw

accelerators: accel-python  ## compile steps for TPUs that are not there; ACCEL_ARGS=--quick compares with the last run
	@$(MAKE) .venv-tpu/.benchmarks-tpu VENV=.venv-tpu PYTHON="$(ACCEL_PYTHON)"
	.venv-tpu/bin/python benchmarks/accelerators.py $(ACCEL_ARGS)

accelerators-cuda: accel-python  ## build .venv-cuda (5 GB), with which `make accelerators` compiles for H100, too
	@$(MAKE) .venv-cuda/.benchmarks-cuda VENV=.venv-cuda PYTHON="$(ACCEL_PYTHON)"

# The Python is that of the machine, which has the JAX for its GPU. Nothing is installed.
gpu:  ## on a machine with a GPU: run the numerical tests there, and write benchmarks/results/gpu.json
	JAX_PLATFORMS=cuda,cpu XLA_PYTHON_CLIENT_PREALLOCATE=false PYTHONPATH=. OPENBLAS_NUM_THREADS=1 \
	  $(PYTHON) -m pytest -n 8 -v -rfE $(GPU_TESTS); \
	  tests=$$?; PYTHONPATH=. $(PYTHON) -m benchmarks.gpu $(GPU_ARGS) && exit $$tests

accel-python:
	@"$(ACCEL_PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 12))' || { \
	  echo "the compilers of TPUs and GPUs need Python 3.12 or newer, and $(ACCEL_PYTHON) is not;" \
	       "set ACCEL_PYTHON=/path/to/python3.12 and run make again" >&2; exit 1; }

# The sdist's own tests run where it is unpacked, away from this checkout.
dist: $(VENV)/.dist  ## build the sdist and the wheel into dist/, and run some of the sdist's tests
	rm -rf dist build
	$(BIN)/python -m build --no-isolation
	mkdir -p build/sdist && tar -xzf dist/*.tar.gz -C build/sdist --strip-components=1
	cd build/sdist && OPENBLAS_NUM_THREADS=1 $(abspath $(BIN))/python -m pytest $(DIST_TESTS)

# An empty environment has nothing but what the distribution asks for: no Flax, no chex, no pytest.
dist-check: dist  ## install the wheel and the sdist in empty environments, and take a step there
	@for file in dist/*.whl dist/*.tar.gz; do \
	  echo "== $$file"; rm -rf build/empty; \
	  "$(PYTHON)" -m venv build/empty && \
	  build/empty/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "$$file" && \
	  (cd build && empty/bin/precond --version && empty/bin/python -c "$$TAKE_A_STEP") || exit 1; \
	done

define TAKE_A_STEP
import importlib.util, jax.numpy as jnp, precond
assert "empty" in precond.__file__ and importlib.util.find_spec("flax") is None
params = {"kernel": jnp.ones((8, 4)), "bias": jnp.ones(4)}
for make in (precond.shampoo, precond.soap, precond.kl_shampoo, precond.muon):
    updates, _ = make(1e-3).update(params, make(1e-3).init(params), params)
    assert jnp.isfinite(updates["kernel"]).all() and jnp.all(updates["bias"] < 0), make
endef
export TAKE_A_STEP

clean:  ## remove the venvs, the caches and what was built
	rm -rf .venv .venv-* build dist site .hypothesis .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: what they name is installed, and is installed again when the pins change.
$(VENV)/.base: $(PINS)
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "precond needs Python 3.11 or newer, and there is no $(PYTHON);" \
	       "set PYTHON=/path/to/python3.11 and run make again" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.version_info >= (3, 11) or sys.exit( \
	  "precond needs Python 3.11 or newer, found %d.%d.%d at %s; set PYTHON=/path/to/python3.11 and run make again" \
	  % (sys.version_info[:3] + (sys.executable,)))'
	"$(PYTHON)" -m venv $(VENV)
	$(INSTALL) -e '.[tests,examples]'
	@touch $@

$(addprefix $(VENV)/.,lint docs benchmarks benchmarks-tpu benchmarks-cuda dist): $(VENV)/.%: $(VENV)/.base
	$(INSTALL) -e '.[$*]'
	@touch $@
