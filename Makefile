# Everything from nothing: `make demo`, `make test`. Needs Python >= 3.10 and (for the messages) a
# C++ compiler; tools/check_system.sh installs or names what is missing.
#
#   make demo [BAG=path] [SECONDS=60] [ARGS='...']   the robot tells what it senses
#   make test [PYTEST_ARGS='...']                    linters and tests
#   make bench [ARGS='sync describe']                every benchmark, or some: benchmarks/results/
#   make bench-quick                                 the same in under five minutes
#   make setup                                       only .venv, with the command .venv/bin/onellm
#   make clean                                       remove .venv and all that was built
#
# PYTHON=python3.12 chooses the interpreter; PIP_ARGS='...' goes to every `pip install`.

SHELL := /bin/sh
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
PYTEST_ARGS ?=
ARGS ?=
BAG ?=
SECONDS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet $(PIP_ARGS) --constraint requirements/constraints.txt
PIP_VERSION := 26.3

# A sourced ROS installation must not mix with the wheels in the venv.
ifneq ($(ROS_DISTRO),)
unexport PYTHONPATH LD_LIBRARY_PATH AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH
unexport ROS_DISTRO RMW_IMPLEMENTATION
endif

# A step is done when its stamp, named by what it depends on, exists; so a second call starts at once.
STAMPS := $(VENV)/.stamps
hash = $(firstword $(shell cat $(1) | sha256sum | cut -c1-16))
PINS := requirements/constraints.txt requirements/build.txt requirements/runtime.txt
MSGS := $(sort $(wildcard onellm_msgs/*.* onellm_msgs/*/*))
RUNTIME := $(call hash,$(PINS))
RUNTIME_STAMP := $(STAMPS)/runtime-$(RUNTIME)
MSGS_STAMP := $(STAMPS)/msgs-$(call hash,$(PINS) $(MSGS) tools/build_msgs.sh tools/mend_wheels.py)
PACKAGE_STAMP := $(STAMPS)/package-$(call hash,setup.py)-$(RUNTIME)
TEST_STAMP := $(STAMPS)/test-$(call hash,$(PINS) requirements/test.txt requirements/train.txt \
  requirements/onnx.txt requirements/quantize.txt)
LOOPS_STAMP := $(STAMPS)/loops-$(call hash,$(sort $(wildcard onellm_ros/simulation/*.py)) onellm_ros/inference/kernels.py)-$(RUNTIME)
# Replace the step's older stamps by the new one.
stamp = @mkdir -p $(STAMPS) && rm -f $(STAMPS)/$(1)-* && touch $@

.PHONY: setup test demo clean lint bench bench-quick
.NOTPARALLEL:
.DELETE_ON_ERROR:

setup: $(PACKAGE_STAMP) $(MSGS_STAMP) $(LOOPS_STAMP)

test: setup $(TEST_STAMP)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: setup $(TEST_STAMP)
	$(BIN)/python -m pytest test/test_lint.py

demo: setup
	$(BIN)/python -m onellm_ros.ros.demo $(if $(BAG),--bag '$(BAG)') \
	  $(if $(SECONDS),--seconds $(SECONDS)) $(ARGS)

bench: setup $(TEST_STAMP)
	$(BIN)/python benchmarks/run.py $(ARGS)

bench-quick: setup $(TEST_STAMP)
	$(BIN)/python benchmarks/run.py --quick $(ARGS)

clean:
	rm -rf $(VENV) build install log *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUNTIME_STAMP):
	@tools/check_system.sh $(PYTHON)
	@test -x $(BIN)/python || { echo 'setup: making $(VENV)'; $(PYTHON) -m venv $(VENV); }
	@echo 'setup: installing pinned Python packages (some minutes the first time)'
	@$(PIP) install --quiet $(PIP_ARGS) pip==$(PIP_VERSION)
	@$(INSTALL) -r requirements/build.txt -r requirements/runtime.txt
	$(call stamp,runtime)

$(MSGS_STAMP): $(RUNTIME_STAMP)
	@echo 'setup: building onellm_msgs'
	@tools/build_msgs.sh $(VENV)
	$(call stamp,msgs)

$(PACKAGE_STAMP): $(RUNTIME_STAMP)
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable . 2> $(VENV)/package.log \
	  || { cat $(VENV)/package.log; exit 1; }
	$(call stamp,package)

# numba keeps what it compiled beside the sources; without this the first demo would wait for it.
$(LOOPS_STAMP): $(PACKAGE_STAMP)
	@echo 'setup: compiling the renderer of the simulated world and the loops that decode'
	@$(BIN)/python -c 'from onellm_ros.simulation.world import World; World(0).sample()'
	@$(BIN)/python -c 'from onellm_ros.inference.engine import Engine; Engine.load("nano", "cpu")'
	$(call stamp,loops)

$(TEST_STAMP): $(RUNTIME_STAMP)
	@echo 'setup: installing the test tools'
	@$(INSTALL) -r requirements/test.txt -r requirements/train.txt -r requirements/onnx.txt \
	  -r requirements/quantize.txt
	$(call stamp,test)
