# `make` lists the targets. Only Python 3.11 is needed: each target makes the
# virtual environment $(VENV) and installs what it needs there, once.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check
# Tests of one file share models: they go to one process.
JOBS ?= 2
PYTEST = $(VENV)/bin/python -m pytest -n $(JOBS) --dist loadfile
CHECK_SCHEMA = $(VENV)/bin/check-jsonschema --quiet --builtin-schema vendor
SOURCES = setup.py keras_bcgd tests examples benchmarks docs

ON_TENSORFLOW = KERAS_BACKEND=tensorflow
# On JAX every small operation is compiled by itself. Optimizing them took most
# of the time, and the compiler crashed after some hundreds of tests.
ON_JAX = KERAS_BACKEND=jax JAX_DISABLE_MOST_OPTIMIZATIONS=1
# The tests that say the same on every backend: they run on JAX as well.
JAX_TESTS = \
	tests/test_projections.py \
	tests/test_ternary_threshold.py \
	tests/test_activations.py \
	tests/test_branches.py \
	tests/test_pointwise.py \
	tests/test_quant_activation.py \
	tests/test_quant_merge.py \
	tests/test_constraints.py \
	tests/test_layers.py \
	tests/test_residual_layers.py \
	tests/test_separable.py \
	tests/test_optimizers.py \
	tests/test_gradient_scale.py \
	tests/test_alpha_l2.py \
	tests/test_blending_schedule.py \
	tests/test_monitor.py \
	tests/test_align_in_training.py \
	tests/test_on_device.py \
	tests/test_conversion_layers.py \
	tests/test_conversion_networks.py \
	tests/test_conversion_pointwise.py \
	tests/test_conversion_refusals.py \
	tests/test_conversion_settings.py \
	tests/test_conversion_shared.py \
	tests/test_float_weights.py \
	tests/test_batches.py \
	tests/test_calibration.py \
	tests/test_batch_norm.py \
	tests/test_distillation.py \
	tests/test_summary.py \
	tests/test_sensitivity.py \
	tests/test_cifar10_data.py \
	tests/test_imports.py

.PHONY: help demo test test-slow lint format build-file docs wheel-test clean

help:  ## List the targets
	@grep -E '^[a-z-]+:.*  ## ' $(firstword $(MAKEFILE_LIST)) \
	  | sed -E 's/^([a-z-]+):.*  ## (.*)/\1\t\2/' | expand -t 12

demo: $(VENV)/.installed-examples  ## Train, export and verify a small network; writes demo_output/
	$(VENV)/bin/python examples/demo.py --output_dir=demo_output

test: $(VENV)/.installed-test,jax  ## Run the tests on TensorFlow, then the backend-independent ones on JAX
	@echo "== Tests on TensorFlow"
	$(ON_TENSORFLOW) $(PYTEST) -m "not slow"
	@echo "== Backend-independent tests on JAX"
	$(ON_JAX) $(PYTEST) -m "not slow" $(JAX_TESTS)

test-slow: $(VENV)/.installed-test,jax,vela  ## Run the slow tests on TensorFlow
	$(ON_TENSORFLOW) $(PYTEST) -m slow

lint: $(VENV)/.installed-lint  ## Check the code with ruff, GitHub's files by their schemas
	$(VENV)/bin/ruff check $(SOURCES)
	$(VENV)/bin/ruff format --check $(SOURCES)
	$(CHECK_SCHEMA).github-workflows .github/workflows/*.yml
	$(CHECK_SCHEMA).github-issue-forms .github/ISSUE_TEMPLATE/[!c]*.yml
	$(CHECK_SCHEMA).github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(CHECK_SCHEMA).dependabot .github/dependabot.yml
	$(CHECK_SCHEMA).citation-file-format CITATION.cff

format: $(VENV)/.installed-lint  ## Format the code with ruff
	$(VENV)/bin/ruff check --fix $(SOURCES)
	$(VENV)/bin/ruff format $(SOURCES)

build-file: $(VENV)/bin/python  ## Write BUILD, the targets of Bazel, from the sources
	$(VENV)/bin/python tests/build_file.py

# The variable spares the log a notice: Material for MkDocs ends in May 2027.
docs: $(VENV)/.installed-docs  ## Build the documentation in site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet --strict
	@echo "== site/index.html"

wheel-test: $(VENV)/bin/python  ## Build the wheel and use it in an empty environment, outside the checkout
	@temporary=$$(mktemp -d); trap 'rm -rf "$$temporary"' EXIT; \
	echo "== Building the wheel"; \
	rm -rf build; \
	$(PIP) wheel -qq --no-deps --wheel-dir "$$temporary" .; \
	wheel=$$(echo "$$temporary"/*.whl); \
	echo "== Installing $${wheel##*/} with TensorFlow in an empty environment"; \
	$(PYTHON) -m venv "$$temporary/venv"; \
	"$$temporary/venv/bin/python" -m pip --disable-pip-version-check \
	  install -qq "$$wheel[tensorflow]"; \
	echo "== Training one step with it"; \
	cd "$$temporary"; \
	venv/bin/python -c "$$WHEEL_CHECK"

define WHEEL_CHECK
import importlib.metadata
import sys

import keras
import numpy as np

import keras_bcgd

assert keras_bcgd.__file__.startswith(sys.prefix), keras_bcgd.__file__
assert keras_bcgd.__version__ == importlib.metadata.version("keras-bcgd")
layer = keras_bcgd.QuantDense(3, bits=2)
model = keras.Sequential([keras.Input((4,)), layer, keras_bcgd.QuantReLU()])
model.compile(keras_bcgd.BlendedOptimizer(keras.optimizers.SGD(0.1)), "mse")
x, y = np.eye(4, dtype="float32"), np.ones((4, 3), "float32")
model.fit(x, y, verbose=0)
magnitudes = np.unique(np.abs(keras.ops.convert_to_numpy(layer.kernel)))
assert np.sum(magnitudes > 0) == 1, magnitudes
print("keras-bcgd", keras_bcgd.__version__, "with Keras", keras.__version__)
endef
export WHEEL_CHECK

clean:  ## Remove what the other targets wrote, all but the virtual environment
	rm -rf build dist site *.egg-info demo_output .pytest_cache .ruff_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -exec rm -rf {} +

$(VENV)/bin/python:
	@echo "== Making the virtual environment $(VENV) with $(PYTHON)"
	$(PYTHON) -m venv $(VENV)

# One stamp for each list of extras: pip runs again only when setup.py changes.
$(VENV)/.installed-%: setup.py | $(VENV)/bin/python
	@echo "== Installing keras-bcgd[$*] in $(VENV): some minutes the first time"
	$(PIP) install -qq -e ".[$*]"
	@touch $@
