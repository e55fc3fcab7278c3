# `make run` and `make test` from a fresh clone; nothing needs to be installed or sourced before.
# With ROS 2 on the machine, this file is not needed: see README, "Install".

PYTHON ?= python3
BAG ?= test/data/street_sample
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
OVERLAY := $(CURDIR)/install/fassst_ros
STAMPS := $(VENV)/stamps

# A sourced ROS 2 of another Python or distribution must not mix with the one in .venv.
unexport PYTHONPATH PYTHONHOME LD_LIBRARY_PATH AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH
unexport ROS_DISTRO ROS_VERSION ROS_PYTHON_VERSION RMW_IMPLEMENTATION _ROS_WHEELS_BOOTSTRAP_COMPLETE
unexport VIRTUAL_ENV

SOURCES := CMakeLists.txt package.xml LICENSE msg fassst_ros scripts launch config models include
# An environment holds absolute paths: after the checkout was moved it is made again.
MOVED := $(if $(filter $(CURDIR),$(file <$(STAMPS)/python)),,moved)

.DEFAULT_GOAL := help
.PHONY: help setup run replay bench test lint clean moved
.DELETE_ON_ERROR:
.NOTPARALLEL:

help:  ## this list
	@sed -n 's/^\([a-z]*\):[^#]*##  */  make \1\t/p' Makefile

setup: $(STAMPS)/overlay  ## virtual environment with ROS 2, the runtimes and the built messages

run: setup  ## demo: real street frames through the node; pictures in out/. ARGS="--help" for options
	@exec $(PY) scripts/demo.py $(ARGS)

replay: setup  ## the node measured live with a bag: make replay BAG=drive; report in out/live/
	@exec $(PY) scripts/replay.py "$(BAG)" $(ARGS)

bench: setup $(STAMPS)/dev  ## speed on this machine, a minute. ARGS="--suite all --markdown FILE" measures all, 8 minutes
	@exec $(PY) -m fassst_ros bench $(ARGS)

test: setup lint  ## ruff, mypy and all tests. ARGS="-k words" passes options to pytest
	@exec $(PY) -m pytest $(ARGS)

lint: $(STAMPS)/dev  ## ruff and mypy only
	$(PY) -m ruff check .
	$(PY) -m mypy

clean:  ## remove all that the other targets made
	rm -rf $(VENV) build install log out .mypy_cache .ruff_cache .pytest_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMPS)/python: $(MOVED)
	@scripts/check_tools $(PYTHON)
	@echo "Making $(VENV), once: about 2 minutes and 860 MB, most of it OpenVINO and ROS 2"
	@rm -rf $(VENV) build install
	@$(PYTHON) -m venv $(VENV)
	@mkdir -p $(@D)
	@printf %s "$(CURDIR)" >$@

$(STAMPS)/packages: $(STAMPS)/python pyproject.toml setup.py scripts/prepare_venv.py
	@echo "Installing the Python packages and the ROS 2 wheels"
	@$(PIP) install --quiet --use-pep517 --editable '.[cpu,ros,replay]'
	@$(PY) scripts/prepare_venv.py $(OVERLAY)
	@touch $@

$(STAMPS)/dev: $(STAMPS)/packages
	@echo "Installing what the tests need (torch and others)"
	@$(PIP) install --quiet --use-pep517 --editable '.[cpu,ros,replay,dev]'
	@touch $@

# Only what CMake generates depends on these files; the Python code is used from the checkout.
# CMake refuses sources that hold the directory of an include path (.venv), hence the links.
$(STAMPS)/overlay: $(STAMPS)/packages CMakeLists.txt package.xml $(wildcard msg/*.msg)
	@echo "Building the ROS messages"
	@rm -rf build install
	@mkdir -p build/source
	@ln -s $(addprefix $(CURDIR)/,$(wildcard $(SOURCES))) build/source
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" AMENT_PREFIX_PATH="$(CURDIR)/$(VENV)" $(PY) -m colcon \
	    --log-base log build --symlink-install --paths build/source \
	    --cmake-args -DBUILD_TESTING=OFF -DPython3_EXECUTABLE="$(CURDIR)/$(PY)" --no-warn-unused-cli \
	    >build/colcon.log 2>&1 || { tail -n 40 build/colcon.log >&2; exit 1; }
	@touch $@
