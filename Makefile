# `make demo` shows Sentinel at work; `make test` runs everything that CI runs. Each does all its own
# set-up in .venv, with the versions that constraints.txt names. Another interpreter than python3:
# `make demo PYTHON=python3.12`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The oldest DeepSpeed that is supported, as pyproject.toml says; constraints.txt names the newest.
OLDEST_DEEPSPEED := 0.16.0
OLDEST := $(VENV)/deepspeed-$(OLDEST_DEEPSPEED)

# What is imported is compiled then; compiling everything at once takes longer than a test run.
export PIP_NO_COMPILE := 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test tools clean

help:
	@echo 'make demo   watch Sentinel find a NaN, hold both ranks, and let training go on'
	@echo 'make test   run everything that CI runs'
	@echo 'make clean  remove .venv and what tools have cached'

demo: $(VENV)/installed-demo
	$(BIN)/sentinel drill nan

test: $(VENV)/installed-dev $(OLDEST)/installed tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	@# mypy and training with the oldest DeepSpeed leave a core idle each: side by side they do not.
	$(BIN)/mypy & types=$$!; \
	  PYTHONPATH=$(CURDIR)/$(OLDEST) $(BIN)/pytest tests/hooks/test_zero_*.py; tests=$$?; \
	  wait $$types && exit $$tests
	$(BIN)/pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder --durations=20

$(VENV)/installed-demo: EXTRAS := daemon,trainer
$(VENV)/installed-dev: EXTRAS := dev

# A .venv without a working pip is what an interrupted attempt leaves: it is made anew.
$(VENV)/installed-demo $(VENV)/installed-dev: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo 'Sentinel needs Python 3.10 or newer as $(PYTHON); name another: make $(MAKECMDGOALS) PYTHON=python3.12'; \
	  exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || { \
	  echo '$(PYTHON) cannot make virtual environments with pip; on Debian and Ubuntu: apt-get install python3-venv'; \
	  exit 1; }
	@echo 'Installing into $(VENV): PyTorch and DeepSpeed are large, the first time takes minutes.'
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

# Beside the environment, and first on the path of the tests that run with it.
$(OLDEST)/installed: $(VENV)/installed-dev
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --upgrade \
	  --target $(OLDEST) deepspeed==$(OLDEST_DEEPSPEED)
	@touch $@

# Some tests want a Prometheus server, promtool, an Alertmanager, systemd and Chromium. Where they
# cannot be had those tests skip, save in CI. The tests start what they need themselves, on ports of
# their own.
tools:
	@missing=; \
	for tool in prometheus promtool prometheus-alertmanager systemd-analyze chromium; do \
	  command -v $$tool >/dev/null || missing="$$missing $$tool"; \
	done; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -q && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -q -y --no-install-recommends \
	      prometheus prometheus-alertmanager systemd chromium fonts-dejavu-core || true; \
	elif [ -n "$$missing" ]; then \
	  echo "not here:$$missing; tests that need them will skip"; \
	fi

clean:
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
